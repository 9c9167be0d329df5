"""Words that users of NumPyro and PyMC type as arguments of a kernel, and what to write here instead; see also `run/words.py`.

The errors and docs/you-typed-write.md say the same.
"""

__all__ = ["AT_MCMC", "KERNEL", "SEED"]

_NO_SEARCH = "adaptation starts from step_size, or from 1, and is quick to leave it: leave this out"
AT_MCMC = "it goes to lc.MCMC(kernel, {0}=...)"
SEED = "write mcmc.run(jax.random.key(0), ...)"

KERNEL = {
    "find_heuristic_step_size": _NO_SEARCH,
    "target_accept": "write target_accept_prob=0.8",
    "max_treedepth": "write max_tree_depth=10",
    "regularize_mass_matrix": "the metric is shrunk at every window's end, as Stan does it: leave it out",
    "forward_mode_differentiation": "every gradient is taken backwards, through loops too: leave it out",
    "potential_fn": "give a model, or lc.log_density(model, ...), as the first argument",
    "kinetic_fn": "the kinetic energy is that of a Gaussian momentum, with inverse_mass_matrix: leave it out",
    "trajectory_length": "a trajectory ends where it turns back: leave it out, or write lc.HMC(model, trajectory_length=...)",
    "tune": AT_MCMC.format("num_warmup"),
    "draws": AT_MCMC.format("num_samples"),
    "chains": AT_MCMC.format("num_chains"),
    "num_warmup": AT_MCMC.format("num_warmup"),
    "num_samples": AT_MCMC.format("num_samples"),
    "num_chains": AT_MCMC.format("num_chains"),
    "random_seed": SEED,
}
