"""`evidence_gradient`: the derivative of the bound on the evidence in a model's arguments."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal

import jax
import numpy as np

from ...transforms import EvidenceError, key_words
from ...transforms.calls import verb
from ...transforms.keys import random_key
from ...transforms.settings import choice
from ..kernels.layout import Layout
from .chosen import Chosen
from .controls import controls, mean_with_controls
from .draws import check_draws
from .fit import Variational
from .fits import Fits, Kind
from .follow import Problem, estimate
from .keywords import Keywords, check, resolved
from .objective import Objective, check_model
from .parametric import Parametric
from .plan import Asked, Plan
from .remarks import warn
from .result import Evidence
from .sensitivity import Checkpoint, Sensitivity, sensitivities

__all__ = ["EvidenceGradient", "evidence_gradient"]

_OWNER = "evidence_gradient"
_TAPE = 256  # steps up to which every carry is kept
_PATH = {"start": "auto", "inflate": None, "preconditioner": "auto", "num_steps": "auto", "step_size": None, "order": "auto",
         "gradient_threshold": None}  # fmt: skip


@dataclass(frozen=True, repr=False, eq=False)
class EvidenceGradient:
    """The bound and its derivative; made by `lc.evidence_gradient`, which has the equations.

    Attributes:
        evidence: the bound itself, its path and its guard, as `lc.sgd_evidence` returns it, without a look for other modes.
        gradient: d bound / d argument, nats per unit of it; like the argument, or a tuple of such.
        gradient_stderr: its standard error, from the spread of restarts; like the gradient.
        gradients: of every restart, (restart, *shape); NaN for those that are not counted.
        seconds: wall time, compilation included.
        plan, asked, layout: the path, and of which coordinates; what `fit=` takes over. variational: the fit, if one was
            made; `near=` does.
    """

    evidence: Evidence
    gradient: Any
    gradient_stderr: Any
    gradients: Any
    seconds: float
    plan: Plan
    asked: Asked
    layout: Layout
    variational: Variational | None

    @property
    def value(self) -> float:
        """The bound, nats."""
        return self.evidence.bound

    @property
    def stderr(self) -> float:
        """Its standard error, nats."""
        return self.evidence.bound_stderr

    @property
    def log_evidence(self) -> np.ndarray:
        """(restart,), nats. Estimates of the bound where it is read."""
        return self.evidence.log_evidence[:, self.evidence.best]

    @property
    def certified(self) -> bool:
        """Whether the value is a bound as far as can be known, see `Evidence.certified`."""
        return self.evidence.certified

    @property
    def max_curvature(self) -> float:
        """Largest eigenvalue of I - J before the step at which the bound is read; `evidence.limit` is what it may be."""
        return self.evidence.largest_curvature

    @property
    def num_steps(self) -> int:
        """Steps through which the derivative goes."""
        return self.evidence.best_step

    def __repr__(self) -> str:
        sizes = [float(np.linalg.norm(leaf)) for leaf in jax.tree.leaves(self.gradient)]
        noise = [float(np.linalg.norm(leaf)) for leaf in jax.tree.leaves(self.gradient_stderr)]
        lengths = ", ".join(f"{size:.4g} (standard error {error:.2g})" for size, error in zip(sizes, noise, strict=True))
        return f"{self.evidence!r}\ngradient through {self.num_steps} steps, of length {lengths}"


@verb("lc.evidence_gradient(model, key, *args, **kwargs)")
def evidence_gradient(
    model: Callable[..., Any],
    key: Any,
    /,
    *args: Any,
    argnums: int | Sequence[int] = 0,
    start: Literal["auto", "fit", "prior", "laplace"] = "auto",
    inflate: float | None = None,
    preconditioner: Literal["auto", "full", "diagonal"] | None = "auto",
    num_steps: int | Literal["auto"] = "auto",
    step_size: Any = None,
    order: Literal["auto", 2, 4, "exact", "reference"] = "auto",
    num_restarts: int = 64,
    gradient_threshold: float | None = None,
    num_probes: int = 1,
    fit: EvidenceGradient | None = None,
    near: EvidenceGradient | None = None,
    checkpoint: Literal["auto", "tape", "sqrt", "tree"] = "auto",
    progress_bar: bool = False,
    **kwargs: Any,
) -> EvidenceGradient:
    """The lower bound on log p(data) of `sgd_evidence`, and its derivative in arguments of the model: scales of priors, noise, data.

    With eta the argument and u_{t+1} = u_t - a_t S S' grad f(u_t; eta) the path, restarts estimate

        B(eta) = log p(y | u_T; eta) + log p(u_T; eta) - log q_0(u_0) + sum_t log|det J_t(eta)|

    and what is returned is dB/d eta through all of it: the density where the path ends, every step, and every log-determinant. Held are
    S, the sizes and the number of the steps, and the random numbers. B is a bound for each choice of those, so that this is the derivative
    of one bound, at a given path; it is not that of the search for the path.

    start="fit", "laplace": q_0, in unconstrained coordinates, is held too. Where q_T is the posterior, as it is where that is Gaussian,
    the bound touches log p(y; eta), and the derivative is that of log p(y; eta). Elsewhere it differs from that by how the looseness of
    the bound changes with eta; the fit, which nearly maximises the bound, would add little by moving (up to 0.01 nats for a factor e of
    a prior's scale, in Poisson, Student-t and hierarchical models). start="prior": u_0 is drawn from the prior at eta, the derivative goes
    through the draw and through its entropy, and f is the likelihood alone.

    An optimiser that climbs B calls this again and again: with one key the random numbers are the same, and nothing is compiled
    anew as long as shapes and the number of steps, rounded up to a power of two, are the same.

    Args:
        model: a model; `args` and `kwargs` are its arguments. It must compute with jax.numpy on those that are differentiated.
        key: as in `sgd_evidence`.
        argnums: which of `args`, one or several: numbers, arrays, or pytrees of them, of floating point. Positive arguments are best
            given by their logarithms, `jnp.exp(log_scales)` in the model.
        start, inflate, preconditioner, num_steps, step_size, order, num_restarts, gradient_threshold, num_probes: as in `sgd_evidence`.
        fit: an earlier result for this model at other arguments, whose path is used as it is: q_0, S and T. It saves the fit, and the
            bound is one still, looser the further eta has moved.
        near: an earlier result for this model at arguments that are not far: the fit is looked for from its fit, and found sooner.
        checkpoint: how the carries of the path come back, see `transforms.dynamic_loop`: "tape" keeps (restart, step, dim) numbers,
            "sqrt" two square roots of the steps instead, and takes each step once more; "tree" 4 log_4 of them, and takes each step
            log_4 times more. "auto": a tape up to 256 steps, then "sqrt".
        progress_bar: whether to show one.

    Returns:
        `value`, `stderr`, `gradient`, `gradient_stderr`, `log_evidence`, `certified`, `max_curvature`, `num_steps`, and `evidence`. From a
        fit the noise of the gradient is made smaller by control variates, polynomials of second degree in the normal numbers of the
        start; with more than (dim + 1)(dim + 2) restarts none is left on a Gaussian posterior.

    Raises:
        EvidenceError: as `sgd_evidence`; argnums names no argument, or one that is not of floating point, or that the model reads by NumPy.
        ModelError: as `log_density`.
        DerivativeError: something in the model has no derivative of third order; a prior's sampler none at all.

    Warns:
        EvidenceRangeWarning, FailedRestartWarning, KinkWarning, PreconditionerWarning, InterruptWarning: as `sgd_evidence`.

    Source: the bound is that of Duvenaud, Maclaurin & Adams (2016), as `sgd_evidence` has it; they propose its gradient in hyperparameters,
    by running descent backwards (Maclaurin, Duvenaud & Adams 2015).
    """
    begun = perf_counter()
    key_data = key_words(key)
    path = {"start": start, "inflate": inflate, "preconditioner": preconditioner, "num_steps": num_steps, "step_size": step_size,
            "order": order, "gradient_threshold": gradient_threshold}  # fmt: skip
    _check(path, fit, near, checkpoint)
    words = Keywords(
        **path,
        num_restarts=num_restarts,
        num_probes=num_probes,
        batch_size=None,
        plate=None,
        minibatches="shared",
        evaluate_every=None,
        progress_bar=progress_bar,
    )
    check(words)
    chosen = Chosen.of(_OWNER, model, args, kwargs, argnums)
    density = chosen.density()
    check_model(density.program, _OWNER)
    objective = Objective(density.program, Layout.of(density.positions))
    now = resolved(words, objective.layout.dim)
    train = tuple(jax.device_put(density.data))
    problem = Problem(
        objective=objective,
        batches=None,
        held_out=None,
        train=train,
        test=(),
        asked=now.asked if fit is None else fit.asked,
        num_probes=int(num_probes),
        fresh=False,
        evaluate_every=1,
        fits=_fits(near or fit, objective, train, now.fits),
        key=key_data,
        spread=None,
    )
    known, places = _plan_of(fit, objective), chosen.places(density.data)
    if (now.starts if known is None else (known.start,)) != ("fit",):
        check_draws(_OWNER, objective, places)
    plan, evidence = estimate(problem, now, int(num_restarts), bool(progress_bar), known)
    model_of = Parametric(objective, places)
    gradients, normals = _gradients(problem, plan, evidence, model_of, chosen, density.data, checkpoint)
    gradient, error = _means(evidence, gradients, normals)
    like, seconds = chosen.like, perf_counter() - begun
    path = plan, problem.asked, objective.layout, problem.fits.made
    found = EvidenceGradient(evidence, like(gradient), like(error), like(gradients), seconds, *path)
    warn(evidence, _OWNER)
    return found


def _check(path: dict[str, Any], fit: Any, near: Any, checkpoint: Any) -> None:
    choice(_OWNER, "checkpoint", checkpoint, ("auto", "tape", "sqrt", "tree"), error=EvidenceError)
    for name, earlier in {"fit": fit, "near": near}.items():
        if not isinstance(earlier, EvidenceGradient | None):
            raise EvidenceError(
                f"{_OWNER}: {name} is a {type(earlier).__name__}; an earlier result of lc.evidence_gradient expected, or None."
            )
    if fit is None:
        return
    written = [name for name, value in path.items() if type(value) is not type(_PATH[name]) or value != _PATH[name]]
    written += [] if near is None else ["near"]
    if written:
        raise EvidenceError(
            f"{_OWNER}: fit= brings its path with it, and {', '.join(written)} would make another; leave out one of the two."
        )


def _plan_of(fit: EvidenceGradient | None, objective: Objective) -> Plan | None:
    """The path of an earlier result, if it is one of this model."""
    if fit is not None and fit.layout != objective.layout:
        raise EvidenceError(f"{_OWNER}: fit is of a model with other latent sites; leave it out.")
    return None if fit is None else fit.plan


def _fits(near: EvidenceGradient | None, objective: Objective, data: tuple, kind: Kind) -> Fits:
    """Fits that are looked for from an earlier one, if it is of these coordinates and of this kind."""
    earlier = None if near is None or near.layout != objective.layout else near.variational
    fits_in = earlier is not None and (earlier.root.ndim == 2) == (kind == "full")
    return Fits(objective, data, kind, earlier if fits_in else None)


def _gradients(
    problem: Problem, plan: Plan, evidence: Evidence, model: Parametric, chosen: Chosen, data: Sequence[Any], checkpoint: Any
) -> tuple[list[np.ndarray], np.ndarray]:
    """Of every restart, (restart, *shape) for each chosen array, and the normal numbers of its start, (restart, dim)."""
    number, restarts = evidence.best_step, np.arange(len(evidence.log_evidence), dtype=np.uint32)
    capacity = 1 << max(len(plan.step_sizes) - 1, 1).bit_length()
    ways: Checkpoint = ("tape" if capacity <= _TAPE else "sqrt") if checkpoint == "auto" else checkpoint
    path = Sensitivity(model, plan.joint, problem.asked.order, problem.num_probes, capacity, ways)
    sizes = np.zeros(capacity, problem.objective.layout.dtype)
    sizes[: len(plan.step_sizes)] = plan.step_sizes
    read = chosen.read(data)
    moving = [leaf for leaf, on in zip(chosen.leaves, read, strict=True) if on]
    given = problem.data(plan, len(restarts))
    _, found, normals = sensitivities(path, moving, given, sizes, np.int32(number), random_key(problem.key), restarts)
    made = iter(found)
    gradients = [
        np.asarray(next(made) if on else np.zeros((len(restarts), *leaf.shape), leaf.dtype))
        for leaf, on in zip(chosen.leaves, read, strict=True)
    ]
    out = ~(evidence.counted[:, evidence.best] & evidence.reporting)
    return [np.where(out.reshape(-1, *[1] * (g.ndim - 1)), np.nan, g) for g in gradients], np.asarray(normals, np.float64)


def _means(evidence: Evidence, gradients: Sequence[np.ndarray], normals: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Means over the restarts that count, and their standard errors; with controls where all count: of some the numbers have a mean."""
    counted = evidence.counted[:, evidence.best] & evidence.reporting
    zero = controls(normals) if counted.all() else np.zeros((len(normals), 0))
    pairs = [mean_with_controls(np.asarray(g[counted], np.float64), zero[counted]) for g in gradients]
    means, errors = ([np.asarray(pair[i], g.dtype) for pair, g in zip(pairs, gradients, strict=True)] for i in (0, 1))
    return means, errors
