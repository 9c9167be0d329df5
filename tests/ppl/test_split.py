"""Draws that are split over devices: what is computed for them is what it is elsewhere, where they are, without a collective."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import luciole as lc
from luciole import dist
from luciole.ppl import predictive
from luciole.ppl.split import Split

X, Y = np.linspace(-1.0, 1.0, 5), np.zeros(5)
COLLECTIVE = re.compile(r"(all|reduce|collective)[-_](reduce|gather|scatter|permute|to[-_]all|broadcast)")


def curve(x=X, y=Y):
    a = lc.sample("a", dist.Normal(0.0, 1.0))
    b = lc.sample("b", dist.Normal(jnp.zeros(2), 1.0))
    line = lc.deterministic("line", a + b[0] * x + b[1] * x**2)
    with lc.plate("n", len(x)):
        lc.sample("y", dist.Normal(line, 0.5), obs=y)


def samples(*lead):
    rng = np.random.default_rng(0)
    return {"a": rng.standard_normal(lead, np.float32), "b": rng.standard_normal((*lead, 2), np.float32)}


def place(values, mesh, *spec):
    return jax.device_put(values, NamedSharding(mesh, PartitionSpec(*spec)))


def both(given, *args, **kwargs):
    drawn = lc.posterior_predictive(curve, jax.random.key(3), given, *args, **kwargs)
    return {**drawn, "score": lc.log_likelihood(curve, given, *args, **kwargs)["y"]}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in found.items():
        assert type(value) is np.ndarray and value.dtype == expected[name].dtype
        np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.fixture
def calls(monkeypatch):
    """The arguments of every batch on the devices."""
    seen, inner = [], predictive._batch_of_each
    monkeypatch.setattr(predictive, "_batch_of_each", lambda *args: seen.append(args) or inner(*args))
    return seen


def test_every_device_works_on_its_own_draws(calls):
    given = samples(24)
    there = place(given, jax.make_mesh((8,), ("d",)), "d")
    found, expected = (lc.posterior_predictive(curve, jax.random.key(3), given) for given in (there, given))
    assert_same(found, expected)
    (*of, size), rest = calls[0][:4], calls[0][4:]
    assert size == 3 and {s.data.shape for s in rest[-1]["b"].addressable_shards} == {(3, 2)}
    text = jax.jit(lambda *rest: predictive._batch_of_each(*of, size, *rest)).lower(*rest).compile().as_text()
    assert "num_partitions=8" in text and not COLLECTIVE.search(text)


@pytest.mark.slow
def test_batches_need_not_divide_the_draws_nor_the_draws_the_devices(calls, monkeypatch):
    monkeypatch.setattr(predictive, "_MAX_BATCH", 3)
    given = samples(4, 7)
    expected = both(given)
    assert_same(both(place(given, jax.make_mesh((4, 2), ("c", "idle")), "c")), expected)  # of 28 draws 7 on each of 4 pairs of devices
    assert [int(begin) for *_, begin, _, _ in calls] == [0, 3, 4] * 2
    assert {size for _, _, _, size, *_ in calls} == {3}


SPLITS = {
    "by draws, older mesh": ((3, 16), lambda: Mesh(np.array(jax.devices()), ("d",)), (None, "d")),
    "over two axes, the other way round": ((8, 3), lambda: jax.make_mesh((4, 2), ("c", "d")), (("d", "c"),)),
    "nothing": ((8, 0), lambda: jax.make_mesh((8,), ("d",)), ("d",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SPLITS)
def test_however_they_are_split(name):
    lead, mesh, spec = SPLITS[name]
    given = samples(*lead)
    assert_same(both(place(given, mesh(), *spec)), both(given))


def test_numbers_of_draws_are_those_of_the_whole(monkeypatch):
    """A twin that numbers the draws of each device from zero gives all devices the same random numbers."""
    given = samples(24)
    right = lc.posterior_predictive(curve, jax.random.key(3), given)["y"]
    inner = predictive._batch_of_each

    def local(*args):
        *most, numbers, values = args
        return inner(*most, numbers - numbers[:, :1], values)

    monkeypatch.setattr(predictive, "_batch_of_each", local)
    wrong = lc.posterior_predictive(curve, jax.random.key(3), place(given, jax.make_mesh((8,), ("d",)), "d"))["y"]
    np.testing.assert_allclose(wrong[:3], right[:3], atol=1e-6)
    assert (np.abs(wrong - right)[3:] > 1e-6).mean() > 0.99


def test_numbers_by_block():
    split = Split(jax.make_mesh((4, 2), ("c", "d")), (("d",), ("c",)))
    expected = np.arange(24).reshape(2, 12)  # d is 2, c is 4
    np.testing.assert_array_equal(split.numbers((2, 12)), [expected[i, 3 * j : 3 * j + 3] for i in range(2) for j in range(4)])


@pytest.mark.slow
def test_what_is_placed_nowhere_goes_with_the_others_and_so_do_the_data():
    given, mesh = samples(16), jax.make_mesh((4,), ("d",), devices=jax.devices()[4:])
    mixed = {"a": place(given["a"], mesh, "d"), "b": jnp.asarray(given["b"])}
    x = np.array([2.0, 3.0], np.float32)
    expected = lc.predict(curve, jax.random.key(0), given, x, None)
    assert_same(lc.predict(curve, jax.random.key(0), mixed, jax.device_put(x, jax.devices()[0]), None), expected)


def misplaced():
    mesh, half, given = jax.make_mesh((8,), ("d",)), jax.make_mesh((4,), ("d",), devices=jax.devices()[:4]), samples(8)
    a, b = given["a"], np.zeros((8, 8), np.float32)
    yield {"a": place(a, mesh, "d"), "b": place(b, mesh, None, "d")}, r"'b', of shape \(8, 8\), .*along axis 1, which is one of the site"
    yield {"a": place(a, mesh, "d"), "b": place(b, half, "d")}, r"'a' are placed by .*'d': 8.*, and those of 'b' .*'d': 4"
    yield {"a": place(a, mesh, "d"), "b": place(b, mesh)}, r"All draws of one number must lie on one device; write jax.device_put"
    yield {"a": place(a, mesh, "d"), "b": jax.device_put(b, jax.devices()[0])}, r"and those of 'b' on "


@pytest.mark.parametrize("number", range(4))
def test_misplaced_draws(number):
    def model():
        a = lc.sample("a", dist.Normal(0.0, 1.0))
        lc.sample("y", dist.Normal(a + lc.sample("b", dist.Normal(jnp.zeros(8), 1.0)), 1.0), obs=np.zeros(8))

    given, words = list(misplaced())[number]
    with pytest.raises(lc.ModelError, match=f"^log_likelihood: the samples of .*{words}"):
        lc.log_likelihood(model, given)
