"""Luciole as an engine of the acceptance harness: library defaults, and what `settings.json` says of a posterior.

    PYTHONPATH=src:tests/acceptance python ../shared/acceptance/harness.py --engine adapter:run --models all
    PYTHONPATH=src:tests/acceptance python ../shared/acceptance/harness.py --engine adapter:run_dsl --models all

`run` takes the NumPyro models unchanged, `run_dsl` the same posteriors written in Luciole, `run_flymc` the NumPyro models with FlyMC. The
harness is whichever module has defined `Result` under its name, the script that is running or an imported one.
"""

import sys
import warnings

import jax
import numpy as np

import luciole as lc
from luciole.inference import BreakEvenWarning, DivergenceWarning

__all__ = ["run", "run_dsl", "run_flymc", "sample"]


def run(request):
    """The NumPyro model of the registry that stands beside the harness."""
    import models_numpyro

    spec = models_numpyro.REGISTRY[request.name]
    return _run(spec.model, spec.prep, request)


def run_dsl(request):
    """The same posterior written in Luciole."""
    import models_dsl

    spec = models_dsl.POSTERIORS[request.name]
    return _run(spec.model, spec.prepare, request)


def run_flymc(request):
    """The NumPyro model, a few of whose rows are bright."""
    import models_numpyro

    spec = models_numpyro.REGISTRY[request.name]
    return _run(spec.model, spec.prep, request, kernel=lc.FlyMC(spec.model))


def sample(model, data, *, seed, chains=4, warmup=1000, draws=1000, nuts=None, kernel=None) -> lc.MCMC:
    """One run with library defaults, of a kernel or of NUTS; `nuts` may hold `target_accept`, as `settings.json` writes it."""
    settings = dict(nuts or {})
    nuts_kernel = lc.NUTS(model, **({"target_accept_prob": settings.pop("target_accept")} if "target_accept" in settings else {}))
    if settings:
        raise KeyError(f"settings that the adapter does not know: {sorted(settings)}")
    kernel = kernel or nuts_kernel
    mcmc = lc.MCMC(kernel, num_warmup=warmup, num_samples=draws, num_chains=chains, progress_bar=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DivergenceWarning)  # they are counted in the result
        warnings.simplefilter("ignore", BreakEvenWarning)
        return mcmc.run(jax.random.PRNGKey(seed), **data)


def _run(model, prepare, request, kernel=None):
    harness = _harness()
    data = prepare(request.data)
    with harness.CompileClock() as clock:
        mcmc = sample(model, data, seed=request.seed, chains=request.chains, warmup=request.warmup, draws=request.draws,
                      nuts=request.nuts, kernel=kernel)  # fmt: skip
        values = mcmc.get_samples(group_by_chain=True)
        draws = {name: np.asarray(values[name], np.float64) for name in request.names}
    stats = mcmc.sample_stats
    sampling = int(stats["n_steps"].sum())
    gradients = {"sampling": sampling, "warmup": int(mcmc.cost["gradient_evaluations"]) - sampling}
    extra = {"cost": dict(mcmc.cost), "step_size": np.asarray(mcmc.step_size).tolist()}
    return harness.Result(draws, clock.timing(), gradients, int(stats["diverging"].sum()) if "diverging" in stats else 0, extra)


def _harness():
    running = sys.modules["__main__"]
    if hasattr(running, "CompileClock"):
        return running
    import harness

    return harness
