"""Restarts and rows that are split over devices: the same numbers, what each device holds, and what is refused.

Restarts are followed without a collective on the way; rows meet where XLA adds sums."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import luciole as lc
from luciole import dist
from luciole import sharding as ls
from luciole.inference.evidence import follow, host
from luciole.inference.evidence.spread import placement

RUN = {"step_size": 0.004, "num_steps": 12, "num_restarts": 16}
COLLECTIVE = re.compile(r"(all|reduce|collective)[-_](reduce|gather|scatter|permute|to[-_]all|broadcast)")


def over(number, axis="r", **more):
    return {"mesh": jax.make_mesh((number,), (axis,)), "tactics": [ls.ManualPartition({"restarts": 0}, axis=axis, **more)]}


def over_both(values, rows=4, **more):
    """Restarts over two devices, rows over four; or rows alone, over what is left of eight devices."""
    tactics = [ls.ManualPartition({"restarts": 0}, axis="r"), ls.ManualPartition(values, axis="d", **more)]
    mesh = jax.make_mesh((8 // rows, rows), ("r", "d"))
    return {"mesh": mesh, "tactics": tactics if rows < 8 else tactics[1:]}


def assert_same(found, expected, tolerance):
    assert (found.start, found.num_steps, found.best_step) == (expected.start, expected.num_steps, expected.best_step)
    for name in ("log_evidence", "training_loss", "log_likelihood", "test_log_likelihood"):
        if getattr(expected, name) is not None:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=tolerance, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(found.samples["w"], expected.samples["w"], rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_every_device_follows_its_own_restarts(x64, conjugate, quiet, monkeypatch):
    """With minibatches of each restart; no collective in any program; and a twin."""
    problem, options, texts = conjugate.random(20, 3), RUN | {"batch_size": 5, "minibatches": "fresh"}, {}
    monkeypatch.setattr(follow, "with_samples", lambda problem, plan, key, evidence, descended: evidence)
    whole = quiet(conjugate.model, jax.random.key(0), *problem, **options).log_evidence

    def compiled(function, static, donate=()):
        programs = []

        def call(*args):
            if not programs:
                lowered = jax.jit(function.__wrapped__, static_argnums=range(static), donate_argnums=donate).lower(*args)
                programs.append(lowered.compile())
                texts[function.__name__] = programs[0].as_text()
            return programs[0](*args[static:])

        return call

    begin = compiled(host.begin, 4)
    monkeypatch.setattr(host, "advance", compiled(host.advance, 1, 1))
    monkeypatch.setattr(host, "begin", begin)
    found = quiet(conjugate.model, jax.random.key(0), *problem, **options, **over(8)).log_evidence
    np.testing.assert_allclose(found, whole, rtol=1e-10)
    assert set(texts) == {"begin", "advance"}
    for text in texts.values():
        assert "num_partitions=8" in text and not COLLECTIVE.search(text)
    monkeypatch.setattr(host, "begin", lambda *args: begin(*args[:-1], args[-1] % 2))  # as if every device counted from zero
    wrong = quiet(conjugate.model, jax.random.key(0), *problem, **options, **over(8)).log_evidence
    np.testing.assert_allclose(wrong[:2], whole[:2], rtol=1e-10)
    assert (np.abs(wrong - whole)[2:] > 1e-3).all()


@pytest.mark.slow
def test_a_path_that_ends_at_a_peak_of_all_restarts(conjugate, quiet):
    """It is followed again up to there, with the draws; in float32, on data that lie split over another axis."""
    problem, options = conjugate.random(20, 3), RUN | {"num_restarts": 12}
    mesh = jax.make_mesh((2, 3), ("rows", "r"), devices=jax.devices()[2:])
    expected = quiet(conjugate.model, jax.random.key(0), *problem, **options)
    assert 0 < expected.best_step
    rows = jax.device_put((problem.x, problem.y), NamedSharding(mesh, PartitionSpec("rows")))
    found = quiet(conjugate.model, jax.random.key(0), *rows, problem.noise, **options, **over(3) | {"mesh": mesh})
    assert_same(found, expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [4, 8])
def test_every_device_has_its_own_rows(conjugate, quiet, monkeypatch, rows):
    """In float32: the numbers, with restarts split too and without; shards, memory, and the sum that XLA must have added."""
    problem, options, programs, placed = conjugate.random(1600, 3), RUN | {"step_size": 1e-4, "num_steps": 3}, [], []
    monkeypatch.setattr(follow, "with_samples", lambda problem, plan, key, evidence, descended: evidence)

    def watched(path, *args):
        if not programs:
            lowered = jax.jit(host_advance.__wrapped__, static_argnums=0, donate_argnums=1).lower(path, *args)
            programs.append(lowered.compile())
            placed.extend(args[1].train)
        return programs[0](*args)

    host_advance = host.advance
    expected = quiet(conjugate.model, jax.random.key(0), *problem, **options)
    monkeypatch.setattr(host, "advance", watched)
    found = quiet(conjugate.model, jax.random.key(0), *problem, **options, **over_both({"plate:rows": 0}, rows))
    np.testing.assert_allclose(found.log_evidence, expected.log_evidence, rtol=1e-5)
    local = {x.shape: x.addressable_shards[0].data.shape for x in placed if x.size > 1}
    assert local == {(1600, 3): (1600 // rows, 3), (1600,): (1600 // rows,)}
    whole, text = sum(x.nbytes for x in placed), programs[0].as_text()
    assert whole / rows < programs[0].memory_analysis().argument_size_in_bytes < whole / rows + 4000  # the state, the sizes of 256 steps
    assert "all-reduce" in text and "all-gather" not in text


ROWS = {
    "plain": RUN,
    "fit": {"num_restarts": 16},
    "laplace": {"num_restarts": 16, "start": "laplace", "order": 4},
    "prior": {"num_restarts": 16, "start": "prior"},
    "shared minibatches": {"num_restarts": 16, "batch_size": 5},
    "minibatches of each": RUN | {"batch_size": 8, "minibatches": "fresh"},
    "threshold": RUN | {"gradient_threshold": 1.0},
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("rows", [4, 8])
@pytest.mark.parametrize("name", ROWS)
def test_rows_change_no_number(x64, conjugate, quiet, name, rows):
    problem, options = conjugate.random(40, 3), ROWS[name] | {"test": tuple(conjugate.random(6, 3, 1))}
    expected = quiet(conjugate.model, jax.random.key(0), *problem, **options)
    found = quiet(conjugate.model, jax.random.key(0), *problem, **options, **over_both({"data.x": 0, "data.y": 0}, rows))
    np.testing.assert_allclose(found.log_evidence, expected.log_evidence, rtol=1e-10)
    assert_same(found, expected, 2e-9 if name == "laplace" else 1e-10)  # a mode is found to the square root of a rounding


@pytest.mark.exhaustive
def test_rows_of_a_large_model(x64, conjugate, quiet):
    """Its mode is where L-BFGS ends, which rounding moves."""
    problem, options = conjugate.random(60, 140), {"num_restarts": 24}
    expected = quiet(conjugate.model, jax.random.key(0), *problem, **options)
    found = quiet(conjugate.model, jax.random.key(0), *problem, **options, **over_both({"plate:rows": 0}))
    assert_same(found, expected, 1e-6)


@pytest.mark.exhaustive
@pytest.mark.parametrize("start", ["fit", "prior"])
def test_preconditioned_paths_and_held_out_data(x64, conjugate, quiet, start):
    problem = conjugate.random(20, 3)
    options = {"num_restarts": 16, "start": start, "test": tuple(conjugate.random(6, 3, 1))}
    expected = quiet(conjugate.model, jax.random.key(0), *problem, **options)
    assert_same(quiet(conjugate.model, jax.random.key(0), *problem, **options, **over(8)), expected, 1e-10)


@pytest.mark.exhaustive
def test_the_path_of_a_large_model_is_chosen_alike(x64, conjugate, quiet):
    """Of 16 restarts that choose, three devices have no equal share: they choose together."""
    problem, options = conjugate.random(60, 140), {"num_restarts": 24}
    expected = quiet(conjugate.model, jax.random.key(0), *problem, **options)
    for number in (3, 8):
        found = quiet(conjugate.model, jax.random.key(0), *problem, **options, **over(number))
        assert_same(found, expected, 1e-10)
        assert [(t.start, t.num_steps, t.kept) for t in found.tried] == [(t.start, t.num_steps, t.kept) for t in expected.tried]


def tactic(values, axis="r", **more):
    return {"tactics": [ls.ManualPartition(values, axis=axis, **more)]}


REFUSED = {
    "no mesh": ({"mesh": None}, lc.EvidenceError, r"write mesh=jax\.make_mesh"),
    "sizes": ({"mesh": {"r": 8}}, lc.EvidenceError, r"mesh is a dict, .*jax\.make_mesh"),
    "no tactics": ({"tactics": None}, lc.EvidenceError, r"tactics are None; a list expected .*\"restarts\": 0"),
    "one tactic": ({"tactics": ls.ManualPartition({"restarts": 0}, axis="r")}, lc.EvidenceError, "a list expected"),
    "uneven": ({"num_restarts": 20}, lc.EvidenceError, r"num_restarts=20 cannot be split evenly over the 8 devices of 'r'; .*=24"),
    "padded": (tactic({"restarts": 0}, pad=True) | {"num_restarts": 3}, lc.PartitionError, r"cannot pad, pad=True: .*axis 'r' divides"),
    "padded rows": (tactic({"plate:rows": 0}, pad=True), lc.PartitionError, "cannot pad, pad=True"),
    "axis": (tactic({"restarts": 0}, "row"), lc.PartitionError, r"the mesh has no axis 'row'; its axes are 'r'"),
    "twice": ({"tactics": 2 * over(8)["tactics"]}, lc.PartitionError, r"the restarts are split over 'r' already"),
    "both over one": (tactic({"restarts": 0, "data.x": 0}), lc.PartitionError, r"the restarts are split over 'r' already.*another axis"),
    "name": (tactic({"restart": 0}), lc.PartitionError, r"nothing that is called 'restart'\. Did you mean 'restarts'\?"),
    "chains": (tactic({"chains": 0}), lc.PartitionError, r"nothing that is called 'chains'\. There are 'restarts', 'data\."),
    "site": (tactic({"sites.w": 0}), lc.PartitionError, r"'sites\.w' is a latent site, .*only data can be split"),
    "dimension": (tactic({"restarts": 1}), lc.PartitionError, r"restarts have one dimension; write ls\.Manual"),
    "whole": (tactic({"restarts": ls.REPLICATED}), lc.PartitionError, r"restarts can be split, 0, and nothing else; leave 'restarts' out"),
    "automatic": ({"tactics": [ls.AutomaticPartition(["r"])]}, lc.PartitionError, r"searches for nothing"),
    "no tactic": ({"tactics": ["r"]}, lc.PartitionError, r"a tactic is a ManualPartition"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(quiet, name):
    options, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        quiet(lambda: pytest.fail("the model was run"), jax.random.key(0), **over(8) | options)


def test_the_order_of_axes():
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    where = placement(mesh, [ls.ManualPartition({"restarts": 0}, axis=axis) for axis in "ba"], 16)
    assert where.place.axes == ("b", "a") and where.place.num_devices == 8 and not where.rows
    assert placement(None, [], 3) is None


def grouped(x, y):
    m = lc.sample("m", dist.Normal(0, 1))
    with lc.plate("rows", len(x)):
        effect = lc.sample("effect", dist.Normal(m, 1))
        lc.sample("y", dist.Normal(effect + x, 1), obs=y)


REFUSED_ROWS = {
    "uneven": ({"data.x": 0}, r"dimension 0 of data\.x, \[10\], cannot be divided among the 8 devices of 'r'\. Leave out 2 of its 10 rows"),
    "argument": ({"data.z": 0}, r"no value of the program is called 'data\.z'\. Did you mean .*'data\.x'"),
    "plate": ({"plate:row": 0}, r"the model has no plate 'row'.*did you mean 'plate:rows'"),
    "latent sites": ({"plate:rows": 0}, r"'sites\.effect' is a latent site, .*without a plate that has latent sites"),
    "dimension": ({"data.x": 1}, r"data\.x has shape \[10\], hence no dimension 1"),
}


@pytest.mark.parametrize("name", REFUSED_ROWS)
def test_rows_that_are_refused(quiet, name):
    values, words = REFUSED_ROWS[name]
    with pytest.raises(lc.PartitionError, match=words):
        quiet(grouped, jax.random.key(0), np.zeros(10), np.zeros(10), **over(8) | tactic(values))
