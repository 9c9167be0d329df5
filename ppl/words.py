"""Words that users of NumPyro's `Predictive` and PyMC's predictive functions type, and what to write here instead."""

__all__ = ["PREDICTIVE"]

_CHOOSE = "all sites are returned; take those you want from the dict: leave it out"
_BATCHES = "draws are made in batches of their own size: leave it out"
_SEED = "the random key is the second argument: jax.random.key(0)"

PREDICTIVE = {
    "return_sites": _CHOOSE,
    "var_names": _CHOOSE,
    "exclude_deterministic": _CHOOSE,
    "parallel": _BATCHES,
    "batch_ndims": "samples may be (draw, ...) or (chain, draw, ...): leave it out",
    "num_samples": "one draw is made for each of the samples: leave it out",
    "draws": "the number of draws is the third argument of lc.prior_predictive",
    "samples": "write it by position: lc.prior_predictive(model, key, num_samples, ...)",
    "random_seed": _SEED,
    "rng_key": _SEED,
    "params": "a posterior has no parameters to optimise; give samples",
    "guide": "a guide is for variational inference; give samples",
}
