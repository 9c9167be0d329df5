"""What comes next, or what is missing, given the draws and the observations that there are."""

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ppl import ModelProgram, trace
from ...ppl.predictive import discrete_states, predictions
from ...transforms.errors import SamplerError
from .record import need_latents
from .results import Readable

__all__ = ["predict"]


def predict(fitted: Readable | Callable[..., Any], key: Any, /, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
    """Draws of what is not observed, given the latent draws and what is: predictions for new rows, forecasts given the past.

        y_open ~ p(y_open | sample, y_given)

    A site whose observation is given keeps it, where `obs_mask` says that it is there; the rest of it is drawn as the model runs, from
    the observations before it. A site without observation is drawn. A latent site of a loop that is longer now goes on from its draws; of
    a discrete one that was summed out these are drawn first (`lc.infer_discrete`), and one of a plate is drawn for the new rows.

        lc.predict(mcmc, key, x_new, None)                                    # new rows
        lc.predict(mcmc, key, jnp.append(y, jnp.full(5, jnp.nan)))            # five steps more, in a model with obs_mask=~jnp.isnan(y_t)
        lc.predict(mcmc, key, y, future=5)                                    # NumPyro's idiom: `condition` around a longer scan

    Args:
        fitted: a finished run; or a model, and then `samples` is the first of args: constrained values of latent sites by name, with
            the same leading axes for all.
        key: a random key, legacy or new-style.
        args, kwargs: the model's arguments, with the new rows or steps.

    Returns:
        By site, (draw, *site shape): what was open, and the deterministic sites. Of a partly given site there are two: under its own name
        the whole, under `name_unobserved` what was drawn, (number missing, *event). For a model: (*leading axes, *site shape).

    Raises:
        ModelError: as `trace`; the samples do not fit the model; nothing is open; missing values stand elsewhere than in the run.
        SamplerError: the run has no draws.

    Warns:
        PriorDrawWarning: something is drawn from its prior although observations that depend on it are kept.
        SaturatedDrawWarning: a draw is the largest number of its dtype.
    """
    if not isinstance(fitted, Readable):
        if not args:
            raise SamplerError(
                "predict: found a model and no samples; write lc.predict(mcmc, key, *new_args), or "
                "lc.predict(model, key, samples, *new_args)."
            )
        return predictions(trace(fitted, *args[1:], **kwargs), key, args[0], "predict")
    samples, before = fitted.get_samples(), fitted.program
    need_latents("predict", before, samples)
    program = trace(fitted._record.model, *args, **kwargs)
    names = {*program.sites, *program.missing.absent} & set(before.latents)
    _check_places(before, program)
    if before.enumerated:  # of a loop that goes on the states so far; rows of a plate are new ones, with states of their own
        states = discrete_states(before, key, samples, "sample")
        samples = {**samples, **{n: v for n, v in states.items() if before.sites[n].loops}}
        names |= set(program.sites) & {n for n in states if before.sites[n].loops}
    new = before.enumerated if all(s.role != "observed" for s in program.sites.values()) else ()  # nothing is known of their rows
    data = [
        n for n in program.sites if n not in before.latents and (n in new or n not in before.enumerated)
    ]  # observed, or not there at all
    return predictions(program, key, {n: v for n, v in samples.items() if n in names}, "predict", data=data)


def _check_places(before: ModelProgram, now: ModelProgram) -> None:
    """Draws of missing values belong to their places; those of the run must be the first that are missing now."""
    for name, mask in before.missing.masks.items():
        if name not in now.missing.masks or not before.missing.counts[name]:
            continue
        was, here = np.argwhere(mask), np.argwhere(now.missing.masks[name])
        if len(here) and not np.array_equal(was, here[: len(was)]):
            first = next(tuple(map(int, w)) for w, h in zip(was, [*here, *[None] * len(was)], strict=False) if h is None or (w != h).any())
            raise SamplerError(
                f"predict: in the run the value of {name.removesuffix('_unobserved')!r} at {first} was missing and has draws; now it is "
                "given, or others are missing before it. Give the data of the run with new steps behind, or run again on these."
            )
