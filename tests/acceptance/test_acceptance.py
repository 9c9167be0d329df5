"""The acceptance posteriors: densities, gradients and values equal NumPyro's, and draws agree with the reference draws.

Draws of most engines and posteriors are an exhaustive test: densities that are the same to twelve digits need not be sampled twice.
Needs the folder shared/acceptance beside the checkout (fixture `acceptance`: skipped without it, failed in CI).
"""

import importlib
import json
import sys
import warnings
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from models_dsl import POSTERIORS
from numpyro.infer.util import constrain_fn, potential_energy

import luciole as lc
from luciole import transforms as lt
from luciole.transforms import autodiff

pytestmark = [pytest.mark.acceptance, pytest.mark.usefixtures("x64")]
NUM_POINTS = 20
TOLERANCE = 1e-12  # relative; of a gradient, to its largest entry at the site

QUICK = {"eight_schools-eight_schools_noncentered", "wells_data-wells_dist100_model"}
names = pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sorted(POSTERIORS)])


@pytest.fixture
def harness(acceptance, monkeypatch):
    """The harness, and beside it the NumPyro models as `harness.models`."""
    monkeypatch.syspath_prepend(str(acceptance))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module, models = importlib.import_module("harness"), importlib.import_module("models_numpyro")
    original = module.ess

    def ess(x, method="mean"):
        if method == "tail":  # reported only, and ArviZ 1.x asks for more arguments
            return float("nan")
        return original(x, method)

    monkeypatch.setattr(module, "ess", ess)
    yield SimpleNamespace(module=module, models=models.REGISTRY, folder=acceptance)
    for name in ("harness", "models_numpyro"):
        sys.modules.pop(name, None)


def data_of(harness, name):
    return json.loads((harness.folder / "posteriors" / name / "data.json").read_text())


def points(density, seed=0):
    """Unconstrained positions, uniform on (-2, 2)."""
    rng = np.random.default_rng(seed)
    shapes = {name: spec.shape for name, spec in density.positions.items()}
    return [{name: rng.uniform(-2, 2, shape) for name, shape in shapes.items()} for _ in range(NUM_POINTS)]


def errors(found, expected):
    """Largest relative error of a value and of a gradient by site."""
    (value, gradient), (known, slope) = jax.tree.map(np.asarray, (found, expected))
    assert np.isfinite(known)
    assert gradient.keys() == slope.keys()
    relative = [np.abs(gradient[n] - slope[n]).max() / max(np.abs(slope[n]).max(), np.finfo(float).tiny) for n in slope]
    return float(np.abs(value - known) / np.abs(known)), float(max(relative))


def test_the_models_are_the_open_posteriors(harness):
    assert sorted(harness.models) == sorted(POSTERIORS)


@names
def test_density_gradient_and_values_are_those_of_numpyro(harness, name):
    spec, data = harness.models[name], data_of(harness, name)
    arguments = spec.prep(data)
    theirs = jax.jit(jax.value_and_grad(lambda position: -potential_energy(spec.model, (), arguments, position)))
    density = lc.log_density(spec.model, **arguments)
    in_dsl = lc.log_density(POSTERIORS[name].model, **POSTERIORS[name].prepare(data))
    engines = {
        "our own derivatives": _ours(density),
        "data as arguments": _on_arguments(density),
        "in the DSL": _on_arguments(in_dsl),
    }
    for position in points(density):
        expected = theirs(position)
        for engine, value_and_grad in engines.items():
            found = errors(value_and_grad(position), expected)
            assert max(found) < TOLERANCE, (engine, found)
    values = constrain_fn(spec.model, (), arguments, position, return_deterministic=True)
    for found in (density.constrain(position), in_dsl.constrain(position)):
        for site in spec.names:
            np.testing.assert_allclose(found[site], values[site], rtol=TOLERANCE, err_msg=site)


def _ours(density):
    compiled = jax.jit(lambda position: lt.value_and_grad(density)(position))

    def without_fallback(position):
        with autodiff.without_fallback():
            return compiled(position)

    return without_fallback


def _on_arguments(density):
    compiled = jax.jit(lambda density, position: jax.value_and_grad(density)(position))
    return lambda position: compiled(density, position)


# Of these FlyMC finds rows and bounds: logistic ones, and Gaussian ones that collapse entirely.
FLYMC = {
    "dogs-dogs",
    "wells_data-wells_dist100_model",
    "arK-arK",
    "earnings-logearn_interaction_z",
    "kidiq-kidscore_momhsiq",
    "mesquite-logmesquite_logvash",
    "nes1980-nes",
    "sblri-blr",
}
LIKE_OTHERS = {
    "arK-arK",
    "arma-arma11",
    "earnings-logearn_interaction_z",
    "kidiq-kidscore_momhsiq",
    "mesquite-logmesquite_logvash",
    "nes1980-nes",
    "sblri-blr",
    "wells_data-wells_dist100_model",
}
SLOW = {"adapter:run": set(POSTERIORS) - LIKE_OTHERS, "adapter:run_dsl": QUICK, "adapter:run_flymc": {"dogs-dogs"}}
RUNS = [("adapter:run", n) for n in POSTERIORS] + [("adapter:run_dsl", n) for n in POSTERIORS] + [("adapter:run_flymc", n) for n in FLYMC]
RUNS = [pytest.param(e, n, marks=pytest.mark.slow if n in SLOW[e] else pytest.mark.exhaustive) for e, n in sorted(RUNS)]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # the harness leaves its files to the garbage collector
@pytest.mark.parametrize(("engine", "name"), RUNS)
def test_draws_agree_with_the_reference(harness, engine, name):
    settings = SimpleNamespace(chains=4, warmup=1000, draws=1000, seed=1, warmup_grads=False, f32=False, save_draws=None)
    record = harness.module.run_one(engine, name, settings)
    assert record["verdict"] in {"PASS", record["expect"]}, harness.module.line(record)
