"""What a user of a type checker writes: every public verb, called as the README calls it. `dev.py lint` has pyright and mypy read it.

It is never run, and imports luciole as an installed package: by its stub and `py.typed`.
"""

import warnings
from typing import assert_type

import jax
import numpy as np

import luciole as lc
from luciole import dist
from luciole import transforms as lt

x, y = np.ones(10), np.ones(10)
key = jax.random.key(0)


@lc.model
def regression(x, y=None):
    slope = lc.sample("slope", dist.Normal(0, 1))
    scale = lc.sample("scale", dist.HalfNormal(1.0))
    with lc.plate("row", len(x), coords=list(range(10))):
        mean = lc.deterministic("mean", slope * x)
        lc.sample("y", dist.Normal(mean, scale), obs=y)
    lc.factor("penalty", -(slope**2))


warnings.filterwarnings("ignore", category=lc.DivergenceWarning)
warnings.filterwarnings("ignore", category=lc.BreakEvenWarning)

# what is asked of a model
program = lc.trace(regression, x, y=y)
density = lc.log_density(lc.condition(regression, {"y": y}), x)
value = density(density.init(key, lc.init_to_median()))
joint = density.joint({"slope": 0.0, "scale": 1.0})
picture: str = lc.render_model(regression, x, format="mermaid")
prior = lc.prior_predictive(regression, key, 100, x)
with lc.handlers.seed(rng_seed=0):
    pass

# kernels, each in a run
kernels = [
    lc.MCMC(lc.NUTS(regression, target_accept_prob=0.95, init_strategy=lc.init_to_value({"slope": 0.0}))),
    lc.MCMC(lc.NUTS(regression, step_size=0.1, adapt_step_size=True, inverse_mass_matrix={"slope": np.ones(1), "scale": np.ones(1)})),
    lc.MCMC(lc.HMC(regression, num_steps=10, init_strategy=lc.init_to_uniform)),
    lc.MCMC(lc.RWM(regression), num_chains=2),
    lc.MCMC(lc.Slice(regression, width=1.0)),
    lc.MCMC(lc.EllipticalSlice(regression)),
    lc.MCMC(lc.FlyMC(regression)),
    lc.MCMC(lc.FlyMC(regression, kernel="nuts", kernel_options={"max_tree_depth": 8}, rows="host")),
]
mcmc = lc.MCMC(lc.FlyMC(regression), num_warmup=500, num_samples=500, num_chains=4, progress_bar=False)
assert_type(mcmc.run(key, x, y=y, extra_fields=("num_steps",)), lc.MCMC)
again = lc.MCMC(lc.NUTS(regression)).run(key, x, y=y, start=mcmc)
lc.MCMC(lc.NUTS(regression)).run(key, x, y=y, init_params=mcmc.state.position)

# what a run leaves
samples = mcmc.get_samples()
assert_type(samples["slope"], np.ndarray)
diverging = mcmc.sample_stats["diverging"].sum()
steps = mcmc.get_extra_fields(group_by_chain=True)["num_steps"]
seconds: float = mcmc.cost["sampling_seconds"]
mcmc.print_summary(prob=0.9)
good: bool = mcmc.diagnose().ok
idata = mcmc.to_arviz(log_likelihood=False, prior=prior)
drawn = lc.posterior_predictive(regression, key, samples, x)
pointwise = lc.log_likelihood(regression, samples, x, y=y)

# evidence
plain = lc.sgd_evidence(regression, key, x, y=y, start="prior", preconditioner=None, step_size=0.01, num_steps=100, order=4)
estimate = lc.sgd_evidence(regression, key, x, y=y)
table = lc.compare_evidence({"one": estimate, "two": plain}, bridge={"one": lc.bridge_evidence(mcmc, key)})
sure: tuple[float, float, bool] = estimate.bound, estimate.importance_weighted, estimate.certified

# transformations
slope_of = lt.grad(lambda a: a**2)(1.0)
linear = lt.linearize(lambda a: a**2, 1.0)


@lt.program
def fib(n: int) -> int:
    return n if n < 2 else fib(n - 1) + fib(n - 2)


batched = lt.autobatch(fib)(np.arange(5))

try:
    lc.MCMC(lc.NUTS(regression))
except (lc.ModelError, lc.SamplerError, lc.KeywordError) as error:
    print(error)

# what a type checker has to refuse: an ignore that hides nothing is an error of its own
lc.MCMC(regression)  # type: ignore[arg-type]
lc.FlyMC(regression, kernel="rotations")  # type: ignore[arg-type]
lc.MCMC(lc.NUTS(regression), num_sample=3)  # type: ignore[call-arg]
mcmc.warmup(key)  # type: ignore[attr-defined]
lc.prior_predictive(regression, key=key, num_samples=3)  # type: ignore[call-arg]
