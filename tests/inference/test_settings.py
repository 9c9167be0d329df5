"""Settings of kernels and runs: every one of them is checked, by name, before anything runs."""

import logging
from dataclasses import fields

import jax
import numpy as np
import pytest

import luciole as lc
from luciole import dist
from luciole.inference.kernels import inverse_mass
from luciole.inference.run import host
from luciole.inference.run import mcmc as module

KEY = jax.random.key(0)
KERNELS = (lc.NUTS, lc.HMC, lc.RWM, lc.Slice, lc.EllipticalSlice, lc.FlyMC)
WRONG = ("a", [1, 2], {}, object(), np.ones(2), 1j, float("nan"))
FREE = {"model", "inverse_mass_matrix", "width"}  # arrays fit; FlyMC.kernel_options: {} fits


def settings():
    """Every setting of every kernel and of `MCMC`, with values that make no sense."""
    for kernel in KERNELS:
        for field in fields(kernel):
            for value in WRONG:
                fits = field.name in FREE or isinstance(value, {"kernel_options": dict, "plate": str}.get(field.name, ()))
                if not fits:
                    yield kernel.__name__, field.name, value
    for name in module.MCMC.__init__.__wrapped__.__kwdefaults__:
        for value in (*WRONG, None):
            fits = value is None if name in ("collect", "store", "mesh", "tactics") else False
            if not (fits or (name == "store" and isinstance(value, str))):
                yield "MCMC", name, value


@pytest.mark.parametrize(("owner", "name", "value"), list(settings()), ids=lambda value: str(value)[:20])
def test_a_setting_that_makes_no_sense_is_refused_by_name(owner, name, value):
    make = (
        (lambda **options: lc.MCMC(lc.NUTS(None), **options))
        if owner == "MCMC"
        else (lambda **options: getattr(lc, owner)(None, **options))
    )
    with pytest.raises(lc.LucioleError, match=rf"{name} is "):
        make(**{name: value})


@pytest.mark.parametrize("value", ["a", [[1, 2], [3]], [1j, 2j], object()])
def test_what_is_no_inverse_mass_matrix_or_width(value):
    density = lc.log_density(model)
    for kernel in (lc.NUTS, lc.HMC, lc.RWM):
        with pytest.raises(lc.SamplerError, match=f"{kernel.__name__}: inverse_mass_matrix is .*an array of numbers"):
            kernel(density, inverse_mass_matrix=value).fit(density, None, 2)
    with pytest.raises(lc.SamplerError, match="Slice: width is "):
        lc.Slice(density, width=value)


@pytest.mark.parametrize("options", [{"softening": "a"}, {"radius": [1.0]}, {"capacity": 2.5}, {"z_update": 3}, {"step_size": "b"}])
def test_what_is_no_option_of_flymc(options):
    with pytest.raises(lc.SamplerError, match=next(iter(options))):
        lc.FlyMC(None, kernel_options=options)


def test_numpys_scalars_are_numbers():
    kernel = lc.NUTS(None, target_accept_prob=np.float32(0.9), max_tree_depth=np.int64(5), dense_mass=np.True_, step_size=np.array(0.5))
    assert (type(kernel.dense_mass), kernel.step_size, kernel.transition().max_tree_depth) == (bool, 0.5, 5)


def test_adaptation_starts_from_what_is_given():
    def adapted(**options):
        tuning = lc.HMC(None, **options).tuning(2, np.dtype(np.float32))
        return bool(tuning.adapt_step_size), bool(tuning.adapt_metric)

    assert adapted() == (True, True)
    assert adapted(step_size=0.1, inverse_mass_matrix=np.ones(2)) == (False, False)
    assert adapted(step_size=0.1, adapt_step_size=True) == (True, True)
    assert adapted(inverse_mass_matrix=np.ones(2), adapt_mass_matrix=True, step_size=0.1, adapt_step_size=False) == (False, True)
    for name in ("adapt_step_size", "adapt_mass_matrix"):
        with pytest.raises(lc.SamplerError, match=f"{name} is False and .* is None"):
            lc.NUTS(None, **{name: False})


def test_the_log_says_that_a_step_size_is_fixed(caplog):
    with caplog.at_level(logging.INFO, logger="luciole"):
        lc.NUTS(None, step_size=0.01).tuning(2, np.dtype(np.float32))
    assert "step_size=0.01 stays fixed; write adapt_step_size=True" in caplog.text


def model():
    lc.sample("z", dist.Normal(0.0, 1.0).expand([2, 1]))
    lc.sample("a", dist.HalfNormal(1.0))


class TestInverseMassMatrix:
    """Program order is z, z, a; that of names a, z, z."""

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"a": 3.0, "z": [1.0, 2.0]}, [1, 2, 3]),
            ({"a": [3.0], "z": [[1.0], [2.0]]}, [1, 2, 3]),
            ({("a", "z"): [3.0, 1.0, 2.0]}, [1, 2, 3]),
            ({("z", "a"): [1.0, 2.0, 3.0]}, [1, 2, 3]),
            ({("z",): 1.0, "a": 3.0}, [1, 1, 3]),
            ({("a", "z"): 2.0}, [2, 2, 2]),
        ],
    )
    def test_by_site(self, given, expected):
        density = lc.log_density(model)
        tuning = lc.NUTS(density, inverse_mass_matrix=given).fit(density, None, 2).tuning
        np.testing.assert_array_equal(tuning.inverse_mass_matrix, expected)
        assert not tuning.adapt_metric

    def test_dense_blocks(self):
        density, block = lc.log_density(model), np.array([[3.0, 0.5, 0.4], [0.5, 1.0, 0.3], [0.4, 0.3, 2.0]])
        whole = lc.HMC(density, inverse_mass_matrix={("a", "z"): block}, dense_mass=True).fit(density, None, 2).tuning
        np.testing.assert_allclose(whole.inverse_mass_matrix, block[np.ix_([1, 2, 0], [1, 2, 0])])
        apart = lc.RWM(density, inverse_mass_matrix={"a": 3.0, "z": block[1:, 1:]}, dense_mass=True).fit(density, None, 2).tuning
        np.testing.assert_allclose(apart.inverse_mass_matrix, [[1, 0.3, 0], [0.3, 2, 0], [0, 0, 3]])

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"a": 1.0}, r"inverse_mass_matrix has missing sites \['z'\];"),
            ({"a": 1.0, "b": 1.0, "z": 1.0}, r"unknown sites \['b'\]"),
            ({"a": 1.0, ("a", "z"): 1.0}, r"sites given twice \['a'\]"),
            (
                {"a": 1.0, "z": np.eye(2)},
                r"inverse_mass_matrix\['z'\] has shape \(2, 2\), \(2,\) or \(2, 1\) expected with dense_mass=False",
            ),
            ({"a": -1.0, "z": 1.0}, "not positive definite"),
            ({"a": "x", "z": 1.0}, r"inverse_mass_matrix\['a'\] is 'x'"),
            (np.ones(2), r"in program order: z \[0:2\], a \[2\]"),
        ],
    )
    def test_what_does_not_fit(self, given, words):
        density = lc.log_density(model)
        with pytest.raises(lc.SamplerError, match=words):
            lc.NUTS(density, inverse_mass_matrix=given).fit(density, None, 2)

    def test_without_sites_there_is_no_dict(self):
        with pytest.raises(lc.SamplerError, match="no model whose sites"):
            inverse_mass.inverse_mass_of("NUTS", {"a": 1.0}, False, 1, np.float32)

    def test_the_log_says_how_an_array_is_read(self, caplog):
        density = lc.log_density(model)
        with caplog.at_level(logging.INFO, logger="luciole"):
            lc.NUTS(density, inverse_mass_matrix=np.ones(3)).fit(density, None, 2)
        assert "read in program order: z [0:2], a [2]" in caplog.text


@pytest.mark.slow
def test_under_disable_jit_chains_are_compiled_and_the_log_says_so(targets, caplog):
    def draws():
        mcmc = lc.MCMC(lc.NUTS(targets.gaussian(np.zeros(2), np.eye(2))), num_warmup=5, num_samples=5, num_chains=2, progress_bar=False)
        return mcmc.run(KEY).get_samples()["x"]

    usual = draws()
    with jax.disable_jit():
        np.testing.assert_array_equal(draws(), usual)
    assert "under jax.disable_jit too" in caplog.text


@pytest.mark.slow
def test_interrupted_before_anything_was_evaluated(targets, monkeypatch):
    def interrupting(*_):
        raise KeyboardInterrupt

    mcmc = lc.MCMC(lc.NUTS(targets.gaussian(np.zeros(2), np.eye(2))), num_warmup=5, num_samples=5, num_chains=2, progress_bar=False)
    monkeypatch.setattr(host._Calls, "_to_the_end", interrupting)
    with pytest.warns(lc.InterruptWarning, match="0 of 5 draws"):
        mcmc.run(KEY)
    counts = {name: value for name, value in mcmc.cost.items() if not name.endswith("seconds")}
    assert set(counts.values()) == {0}
    assert mcmc.get_samples()["x"].shape == (0, 2)
    assert mcmc.sample_stats["lp"].shape == (2, 0)
    for ask in (lambda: mcmc.state, lambda: mcmc.step_size, lambda: mcmc.inverse_mass_matrix, lambda: mcmc.run(KEY, start=mcmc)):
        with pytest.raises(lc.SamplerError, match="interrupted before its chains had started"):
            ask()
    for ask in (mcmc.print_summary, mcmc.to_arviz, mcmc.diagnose):
        with pytest.raises(lc.SamplerError, match="draws"):
            ask()
