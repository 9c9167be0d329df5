"""The states of discrete latent sites that were summed out, drawn back from the draws of everything else."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ...ppl import trace
from ...ppl.enumeration import MODES
from ...ppl.predictive import discrete_states
from ...transforms.errors import ModelError, SamplerError
from .record import need_latents
from .results import Readable

__all__ = ["infer_discrete"]


def infer_discrete(
    fitted: Readable | Callable[..., Any], key: Any, /, *args: Any, mode: str = "sample", **kwargs: Any
) -> dict[str, np.ndarray]:
    """The discrete latent sites that a run summed out, given each of its draws and the observations.

        sample     z ~ p(z | sample, y), a joint draw of all sites
        map        argmax over z of p(z | sample, y), of all sites together
        marginals  p(z_i = k | sample, y), of every element by itself

        states = lc.infer_discrete(mcmc, key)
        mcmc.to_arviz(discrete=states)

    Args:
        fitted: a finished run; or a model, and then `samples` is the first of args (constrained values of all continuous latent sites by
            name, with the same leading axes for all) and the model's arguments follow. A model without continuous latent sites takes {}.
        key: a random key, legacy or new-style; read in mode "sample" alone.
        mode: see above.

    Returns:
        By site, (draw, *site shape), states as the site's distribution counts them; of "marginals" (draw, *site shape, states)
        probabilities, in the order of `lc.trace(model, ...).enumeration.states`. For a model: (*leading axes, ...). An element that is
        masked is absent from the density: its states are equally probable but for what else depends on them.

    Raises:
        ModelError: the model has no discrete latent site, or one that cannot be summed out; samples do not fit.
        SamplerError: the run has no draws of a site that is needed; `mode` is unknown; the run takes no arguments.

    Source:
        All three are gradients of the same log sum, by log sum exp with three linearizations; for a hidden Markov chain they are backward
        sampling (Carter and Kohn 1994), Viterbi's algorithm and smoothing.
    """
    if mode not in MODES:
        raise SamplerError(f"infer_discrete: mode is {mode!r}; expected one of {', '.join(map(repr, MODES))}.")
    if isinstance(fitted, Readable):
        if args or kwargs:
            raise SamplerError(
                "infer_discrete: a run brings its own data; write lc.infer_discrete(mcmc, key). For other data give the model."
            )
        program, samples = fitted.program, fitted.get_samples()
        need_latents("infer_discrete", program, samples)
    else:
        if not args:
            raise SamplerError(
                "infer_discrete: found a model and no samples; write lc.infer_discrete(mcmc, key), or "
                "lc.infer_discrete(model, key, samples, *args)."
            )
        program, samples = trace(fitted, *args[1:], **kwargs), args[0]
        program = replace(program, enumerated=program.discrete)
    if not program.enumerated:
        raise ModelError("infer_discrete: the model has no discrete latent site that was summed out, so there is nothing to recover.")
    return discrete_states(program, key, samples, mode)
