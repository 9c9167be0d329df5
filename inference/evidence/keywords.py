"""The keywords of `sgd_evidence`: what makes no sense is refused, and what is "auto" gets its value."""

import warnings
from typing import Any, Literal, NamedTuple

import numpy as np

from ...transforms import EvidenceError
from ...transforms.settings import choice, flag, number, whole
from .estimators import LIMITS
from .fits import FULL, Kind
from .notices import PreconditionerWarning
from .plan import INFLATE, Asked, Start

__all__ = ["EXACT", "Keywords", "Resolved", "check", "resolved"]

EXACT = 32
"""Parameters up to which determinants are computed if `order` is left out."""

_OWNER = "sgd_evidence"


class Keywords(NamedTuple):
    """What was written, see `sgd_evidence`."""

    start: Any
    inflate: Any
    preconditioner: Any
    num_steps: Any
    step_size: Any
    order: Any
    num_restarts: Any
    num_probes: Any
    gradient_threshold: Any
    batch_size: Any
    plate: Any
    minibatches: Literal["shared", "fresh"]
    evaluate_every: Any
    progress_bar: Any


class Resolved(NamedTuple):
    """What was meant.

    Attributes:
        asked: what all paths have in common. fits: the kind of their fits.
        starts: among which the path is chosen. num_steps: T; None if it is to be found.
    """

    asked: Asked
    fits: Kind
    starts: tuple[Start, ...]
    num_steps: int | None


def check(words: Keywords) -> None:
    """Refuses what makes no sense for any model."""
    choice(_OWNER, "start", words.start, ("auto", "fit", "prior", "laplace"), error=EvidenceError)
    choice(_OWNER, "preconditioner", words.preconditioner, ("auto", "full", "diagonal", None), error=EvidenceError)
    choice(_OWNER, "order", words.order, ("auto", *LIMITS), error=EvidenceError)
    choice(_OWNER, "minibatches", words.minibatches, ("shared", "fresh"), error=EvidenceError)
    flag(_OWNER, "progress_bar", words.progress_bar, error=EvidenceError)
    for name in ("num_restarts", "num_probes"):
        whole(_OWNER, name, getattr(words, name), 1, error=EvidenceError)
    if words.evaluate_every is not None:
        whole(_OWNER, "evaluate_every", words.evaluate_every, 1, error=EvidenceError)
    if words.num_steps != "auto" or not isinstance(words.num_steps, str):
        whole(_OWNER, "num_steps", words.num_steps, 1, write='write num_steps="auto"', error=EvidenceError)
    if words.batch_size is None and (words.plate is not None or words.minibatches == "fresh"):
        raise EvidenceError("sgd_evidence: plate and minibatches say how rows are cut; write batch_size=... too, or leave them out.")
    if words.gradient_threshold is not None:
        positive = "a positive number, in nats per unit of u, or None for the gradient as it is,"
        number(_OWNER, "gradient_threshold", words.gradient_threshold, lambda g: 0 < g < np.inf, positive, error=EvidenceError)
    if words.inflate is not None:
        wider = "a number above 1, by which the start is wider than the fit,"
        number(_OWNER, "inflate", words.inflate, lambda k: 1 < k < np.inf, wider, write="write inflate=1.25", error=EvidenceError)
    _check_plain(words)


def _check_plain(words: Keywords) -> None:
    """Refuses step sizes where the preconditioner has them, and plain descent without."""
    if words.step_size is None:
        if words.preconditioner is None:
            raise EvidenceError(
                "sgd_evidence: preconditioner=None is plain descent, whose steps nothing can choose; write step_size=..., num_steps=... "
                "too, 0.3 over the largest curvature for example, or leave preconditioner out."
            )
        return
    if words.preconditioner in ("full", "diagonal"):
        raise EvidenceError(
            f"sgd_evidence: step_size is that of plain descent, and preconditioner={words.preconditioner!r} has steps of its own; leave "
            'step_size out, or write preconditioner=None, with start="prior" for the form of 2016.'
        )
    if words.num_steps == "auto":
        raise EvidenceError("sgd_evidence: a step size needs a number of steps; write num_steps=..., or leave step_size out.")
    if words.order == "reference":
        raise EvidenceError(
            'sgd_evidence: order="reference" splits off the part of the Jacobian that a preconditioner knows; plain descent has none. '
            "Write order=2, or leave step_size out."
        )


def resolved(words: Keywords, dim: int) -> Resolved:
    """The values of what is "auto", for a model of so many parameters."""
    sizes = None if words.step_size is None else _step_sizes(words.step_size, words.num_steps)
    preconditioner = words.preconditioner
    if preconditioner == "auto":
        preconditioner = ("full" if dim <= FULL else "diagonal") if sizes is None else None
    if preconditioner == "full" and dim > FULL:
        warnings.warn(
            f"sgd_evidence: a full preconditioner holds up to {FULL} parameters, and the model has {dim}; this estimate has a diagonal "
            'one, whose bound is looser. Write preconditioner="diagonal" to say so.',
            PreconditionerWarning,
            stacklevel=4,
        )
        preconditioner = "diagonal"
    usual: dict[Any, tuple[Start, ...]] = {None: ("prior",), "full": ("fit",), "diagonal": ("prior", "laplace")}
    starts = usual[preconditioner] if words.start == "auto" else (words.start,)
    if words.inflate is not None and starts == ("prior",):
        raise EvidenceError(
            'sgd_evidence: inflate widens a start at a fit, and start="prior" has none; leave it out, or write start="fit".'
        )
    fits: Kind = preconditioner or ("full" if dim <= FULL else "diagonal")
    order = words.order
    if order == "auto":
        order = ("exact" if dim <= EXACT else "reference") if preconditioner == "full" else 2
    threshold = words.gradient_threshold
    asked = Asked(preconditioner, float(words.inflate or INFLATE), order, sizes, None if threshold is None else float(threshold))
    return Resolved(asked, fits, starts, None if words.num_steps == "auto" else int(words.num_steps))


def _step_sizes(step_size: Any, num_steps: int) -> np.ndarray:
    """(num_steps,), float64."""
    try:
        sizes = np.asarray(step_size, np.float64)
    except (TypeError, ValueError):
        sizes = np.asarray(np.nan)
    if sizes.shape not in ((), (num_steps,)) or not (np.isfinite(sizes) & (sizes > 0)).all():
        found = repr(step_size) if sizes.ndim == 0 else f"an array of shape {sizes.shape}"
        raise EvidenceError(
            f"sgd_evidence: step_size is {found}; a positive number expected, or one for each step, shape ({num_steps},). It multiplies "
            "the gradient of the summed loss: with N observations write step_size=0.1 / N to begin with. Or leave it out."
        )
    return np.array(np.broadcast_to(sizes, (num_steps,)))
