"""Words that users of NumPyro and PyMC type, and what to write here instead. The errors and docs/you-typed-write.md say the same.

By where a word is typed: an argument of `MCMC` or of `MCMC.run`; an attribute of `MCMC`. Those of kernels are in `kernels/words.py`.
"""

from ..kernels.words import AT_MCMC, SEED

__all__ = ["ATTRIBUTES", "MCMC_WORDS", "RUN"]

_AT_KERNEL = "it goes to the kernel: lc.NUTS(model, {0}=...)"
_ONE_PROGRAM = "all chains run in one program, over the devices of mesh=... if there is one: leave it out"

MCMC_WORDS = {
    "chain_method": _ONE_PROGRAM,
    "cores": _ONE_PROGRAM,
    "jit_model_args": "arrays are arguments of the compiled program anyway, and new data of the same shapes compile nothing: leave it out",
    "postprocess_fn": "write lc.deterministic(name, value) in the model, or compute it from mcmc.get_samples()",
    "draws": "write num_samples=1000",
    "tune": "write num_warmup=1000",
    "warmup": "write num_warmup=1000",
    "chains": "write num_chains=4",
    "progressbar": "write progress_bar=False",
    "random_seed": SEED,
    "rng_key": SEED,
    "key": SEED,
    "target_accept": _AT_KERNEL.format("target_accept_prob"),
    "target_accept_prob": _AT_KERNEL.format("target_accept_prob"),
    "max_tree_depth": _AT_KERNEL.format("max_tree_depth"),
    "init_strategy": _AT_KERNEL.format("init_strategy"),
    "dense_mass": _AT_KERNEL.format("dense_mass"),
    "init_params": "write mcmc.run(key, ..., init_params=...)",
    "initvals": "write lc.NUTS(model, init_strategy=lc.init_to_value({...}))",
    "extra_fields": "write mcmc.run(key, ..., extra_fields=...)",
    "return_inferencedata": "write mcmc.to_arviz() after the run",
    "discard_tuned_samples": "write keep_warmup=True to keep them",
    "step": "the kernel is the first argument: lc.MCMC(lc.NUTS(model))",
}

RUN = {
    **{name: AT_MCMC.format(name) for name in ("num_warmup", "num_samples", "num_chains", "thinning", "progress_bar", "keep_warmup")},
    **{name: MCMC_WORDS[name] for name in ("chain_method", "jit_model_args", "cores", "return_inferencedata", "target_accept")},
    "draws": AT_MCMC.format("num_samples"),
    "tune": AT_MCMC.format("num_warmup"),
    "chains": AT_MCMC.format("num_chains"),
    "random_seed": SEED,
    "init_strategy": _AT_KERNEL.format("init_strategy"),
    "initvals": "write init_params=lc.init_to_value({...})",
}

ATTRIBUTES = {
    "warmup": "run does the warm-up and the draws; lc.MCMC(kernel, keep_warmup=True) keeps the warm-up's draws in mcmc.warmup_samples",
    "last_state": "write mcmc.state, and mcmc.run(key, ..., start=mcmc) to go on from there",
    "post_warmup_state": "write mcmc.run(key, ..., start=mcmc) to start where an earlier run ended",
    "sampler": "write mcmc.kernel",
    "transfer_states_to_host": "draws are NumPy arrays on the host: leave it out",
    "sample": "write mcmc.run(jax.random.key(0), ...)",
    "posterior": "write mcmc.to_arviz(), or mcmc.get_samples(group_by_chain=True)",
    "summary": "write mcmc.print_summary()",
}
