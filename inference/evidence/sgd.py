"""`sgd_evidence`: what a user calls, from the arguments to the result."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, Literal

import jax
import numpy as np

from ...ppl import LogDensity, log_density
from ...transforms import EvidenceError, key_words
from ...transforms.bounded import bounded_jit
from ...transforms.calls import verb
from ...transforms.keys import random_key
from ..layout import Layout
from ..notices import InterruptWarning
from ..progress import Progress
from ..settings import choice, flag, number, whole
from .batches import cut
from .descent import Data, Path
from .estimators import LIMITS, Order
from .host import Descended, descend
from .notices import EvidenceRangeWarning, FailedRestartWarning
from .objective import Objective, check_model
from .result import Evidence

__all__ = ["sgd_evidence"]

_CHECK_EVERY = 10  # steps between two looks at the curvature
_ROUNDING = 32  # units in the last place that the mean over restarts may be off by on the device


@verb("lc.sgd_evidence(model, key, *args, step_size=..., num_steps=..., **kwargs)")
def sgd_evidence(
    model: Callable[..., Any],
    key: Any,
    /,
    *args: Any,
    step_size: Any,
    num_steps: int,
    num_restarts: int = 64,
    order: Order = 2,
    batch_size: int | None = None,
    plate: str | None = None,
    gradient_threshold: float | None = None,
    minibatches: Literal["shared", "fresh"] = "shared",
    num_probes: int = 1,
    evaluate_every: int | None = None,
    test: tuple | Mapping[str, Any] | None = None,
    progress_bar: bool = True,
    **kwargs: Any,
) -> Evidence:
    """Estimates a lower bound on log p(data) along the path of gradient descent from the prior.

    Restarts are drawn from the prior, q_0, in unconstrained coordinates u, and descend the negative log likelihood,

        u_{t+1} = u_t - a_t g_t,    g_t = -grad log p(y | u_t)  (thresholded: g - g0 tanh(g / g0)),    J_t = d u_{t+1} / d u_t.

    After t steps they are draws of an implicit distribution q_t, whose entropy is that of the prior and the changes since. So

        log p(y | u_t) + log p(u_t) - log p(u_0) + sum_{s<t} log|det J_s|

    estimates the evidence lower bound E_q[log p(y, u)] + H[q_t] without bias, -log p(u_0) standing for H[q_0]; p(u) has the Jacobians of
    the bijections. log|det J_s| is replaced by a random estimate of a lower bound on it (see `order`), so the whole stays a lower
    bound. It rises while the likelihood improves faster than entropy is lost, and where it peaks is a time to stop. The bound is tight
    only if q_t is the posterior, which descent does not promise: expect it to be low by one to three nats per well-determined parameter,
    and to peak early for networks. `best_step` is chosen on the noisy mean, which makes the value there a little optimistic, by less
    than its standard error.

    Args:
        model: a model; `args` and `kwargs` are its arguments, its data.
        key: a random key. Restart i gets the same random numbers for every model, step size and number of restarts: differences
            between estimates with one key are less noisy than each of them.
        step_size: a; one number or (num_steps,), in units of u^2 per nat: it multiplies the gradient of the summed loss. a times the
            largest curvature must stay below a limit, 0.68 for `order=2`; 0.3 is a good largest value.
        num_steps: of each restart.
        num_restarts: they run side by side; the standard error falls with their square root.
        order: the estimator of log|det J|. 2: one Hessian-vector product per step, exact to second order in a. 4: two, and a far
            smaller excess. "exact": the log-determinant, dim products and dim^3 operations, for small models.
        batch_size: rows of a plate in one step; must divide their number. None: all. Each epoch goes through all rows in a
            random order, and the loss of a batch is multiplied by the number of batches.
        plate: whose rows; not needed if the observed sites stand in one plate only.
        gradient_threshold: g0, nats per unit of u. Directions in which the gradient is small against it stay where the prior put
            them and keep their entropy.
        minibatches: "shared": all restarts see one sequence of batches; the estimate is unbiased for the bound of that sequence.
            "fresh": every restart has its own; q_t is then a mixture over sequences, whose entropy is at least the mean of theirs, so it
            remains a lower bound, a little looser, and restarts differ more.
        num_probes: random vectors per estimate; one is nearly always enough, because restarts average too.
        evaluate_every: steps between two values of the bound; the last step has one too. By default 1, and with minibatches one
            epoch: the bound needs the likelihood of all rows, exactly (an estimate from a batch would be off by hundreds of nats).
        test: arguments of the model with held-out data, a tuple, or a dict of keyword arguments: their log likelihood is evaluated
            at the same steps.
        progress_bar: whether to show one.

    Returns:
        The estimate: `mean`, `stderr`, `best_step`, `samples`, `plot()`, `to_arviz()`.

    Raises:
        ModelError: as `log_density`; the prior cannot be sampled.
        SamplerError: `key` is no key.
        EvidenceError: an argument makes no sense; a latent site is scaled or masked; the plate does not split into batches of that
            size; every restart became infinite or NaN.

    Warns:
        EvidenceRangeWarning: a step was too long for the curvature there; the bound does not hold after it.
        FailedRestartWarning: restarts became infinite or NaN and were left out.
        InterruptWarning: the user interrupted; the estimate ends there.

    Source: Duvenaud, Maclaurin & Adams (2016), "Early stopping as nonparametric variational inference", AISTATS. We deviate in the
    estimator (one product instead of two, or a quartic; `estimators` has the derivation) and in keeping the prior in the bound.
    """
    begun = perf_counter()
    words = key_words(key)
    _check(order, num_steps, num_restarts, num_probes, minibatches, gradient_threshold, batch_size, plate, evaluate_every, progress_bar)
    step_sizes = _step_sizes(step_size, num_steps)
    density = log_density(model, *args, **kwargs)
    check_model(density.program)
    objective = Objective(density.program, Layout.of(density.positions))
    batches = None if batch_size is None else cut(model, args, kwargs, density, objective, batch_size, plate)
    held_out, test_data = _held_out(model, test, density, objective.layout)
    path = Path(
        objective=objective,
        batches=batches,
        held_out=held_out,
        order=order,
        num_probes=int(num_probes),
        thresholded=gradient_threshold is not None,
        fresh=batches is not None and minibatches == "fresh",
        evaluate_every=int(evaluate_every or (1 if batches is None else batches.count)),
        check_every=_CHECK_EVERY,
    )
    width = np.asarray(gradient_threshold or 0.0, objective.layout.dtype)
    data = Data(tuple(jax.device_put(density.data)), tuple(jax.device_put(test_data)), width, np.int32(num_steps))
    run_key = random_key(words)
    with Progress(num_steps, num_restarts, progress_bar) as progress:
        descended = descend(path, data, run_key, num_restarts, step_sizes, progress)
    estimate = _estimate(path, data, run_key, descended, step_sizes, words, begun)
    _warn(estimate, descended.interrupted, num_steps)
    return estimate


def _estimate(path: Path, data: Data, run_key, descended: Descended, step_sizes: np.ndarray, words, begun: float) -> Evidence:
    """The result, from what the path left."""
    track = descended.track
    num_restarts, length = track.loss.shape
    steps = np.flatnonzero((np.arange(length) % path.evaluate_every == 0) | (np.arange(length) == len(step_sizes)))
    changes = np.cumsum(track.log_det, axis=1)  # the last is that of a step of size zero
    changes = np.concatenate([np.zeros((num_restarts, 1)), changes], axis=1)
    looked = np.flatnonzero(np.arange(min(length, len(step_sizes))) % path.check_every == 0)
    seen = track.curvature[:, looked]
    estimate = Evidence(
        steps=steps,
        log_likelihood=track.log_likelihood[:, steps],
        log_prior=track.log_prior[:, steps],
        entropy=changes[:, steps] - track.log_prior[:, :1],
        training_loss=track.loss,
        test_log_likelihood=None if path.held_out is None else track.test[:, steps] / path.held_out.num_observed,
        best_step=0,
        samples={},
        checked_steps=looked,
        max_curvature=np.where(np.isnan(seen), -np.inf, seen).max(axis=0),
        order=path.order,
        num_probes=path.num_probes,
        step_size=step_sizes,
        key=words,
        num_observed=path.objective.num_observed,
        seconds=perf_counter() - begun,
        program=path.objective.program,
    )
    best_step, positions = _peak(estimate, path, data, run_key, descended)
    values = _constrained(path.objective, data.train, positions[np.flatnonzero(estimate.finite)])
    samples = {name: np.asarray(value) for name, value in values.items()}
    ordered = {name: samples[name] for name in path.objective.program.sites if name in samples}
    return replace(estimate, best_step=best_step, samples=ordered, seconds=perf_counter() - begun)


def _peak(estimate: Evidence, path: Path, data: Data, run_key, descended: Descended) -> tuple[int, jax.Array]:
    """The step at which the bound peaks while it is one, and the positions of all restarts there.

    The device kept those of the largest mean it saw. It may have missed the peak: it did not know which restarts would fail later, and
    it adds in the run's float type. If by more than rounding, the path is run again up to the peak.
    """
    invalid = estimate.first_invalid_step
    allowed = estimate.steps if invalid is None else estimate.steps[estimate.steps <= invalid]
    mean = estimate.mean[: allowed.size]
    state, peak = descended.state, int(np.argmax(mean))
    if not state.best.is_deleted() and int(state.best_step) in allowed:
        kept = int(np.searchsorted(allowed, int(state.best_step)))
        terms = np.abs(estimate.log_likelihood[estimate.finite]).max() + np.abs(estimate.log_prior[estimate.finite]).max()
        if mean[kept] >= mean[peak] - _ROUNDING * np.finfo(state.best.dtype).eps * terms:
            return int(allowed[kept]), state.best
    again = Progress(1, 1, shown=False)
    restarts = len(estimate.log_evidence)
    return int(allowed[peak]), descend(path, data, run_key, restarts, estimate.step_size[: allowed[peak]], again).state.position


@bounded_jit(static_argnums=0)
def _constrained(objective: Objective, data, positions: jax.Array) -> dict[str, jax.Array]:
    return jax.vmap(partial(objective.constrain, data))(positions)


def _held_out(model, test, density: LogDensity, layout: Layout) -> tuple[Objective | None, tuple]:
    """The model on the test data, and these data."""
    if test is None:
        return None, ()
    if not isinstance(test, (tuple, Mapping)):
        raise EvidenceError(
            f"sgd_evidence: test is a {type(test).__name__}; write test=(x_test, y_test), the model's arguments, or a dict of them."
        )
    held_out = log_density(model, **test) if isinstance(test, Mapping) else log_density(model, *test)
    if held_out.positions != density.positions:
        raise EvidenceError(
            f"sgd_evidence: on the test data the latent sites are {_shapes(held_out)}, on the training data {_shapes(density)}. "
            "They must be the same: a latent site for each row has no value for new rows."
        )
    objective = Objective(held_out.program, layout)
    if objective.num_observed == 0:
        raise EvidenceError("sgd_evidence: on the test data no site is observed; give the observed values too, test=(x_test, y_test).")
    return objective, held_out.data


def _shapes(density: LogDensity) -> dict[str, tuple[int, ...]]:
    return {name: tuple(spec.shape) for name, spec in density.positions.items()}


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
            "the gradient of the summed loss: with N observations write step_size=0.1 / N to begin with."
        )
    return np.array(np.broadcast_to(sizes, (num_steps,)))


def _check(
    order, num_steps, num_restarts, num_probes, minibatches, gradient_threshold, batch_size, plate, evaluate_every, progress_bar
) -> None:
    """Refuses arguments that make no sense for any model."""
    owner = "sgd_evidence"
    choice(owner, "order", order, tuple(LIMITS), error=EvidenceError)
    numbers = {"num_steps": num_steps, "num_restarts": num_restarts, "num_probes": num_probes}
    numbers |= {} if evaluate_every is None else {"evaluate_every": evaluate_every}
    for name, value in numbers.items():
        whole(owner, name, value, 1, error=EvidenceError)
    choice(owner, "minibatches", minibatches, ("shared", "fresh"), error=EvidenceError)
    flag(owner, "progress_bar", progress_bar, error=EvidenceError)
    if batch_size is None and (plate is not None or minibatches == "fresh"):
        raise EvidenceError("sgd_evidence: plate and minibatches say how rows are cut; write batch_size=... too, or leave them out.")
    if gradient_threshold is not None:
        positive = "a positive number, in nats per unit of u, or None for the gradient as it is,"
        number(owner, "gradient_threshold", gradient_threshold, lambda g: 0 < g < np.inf, positive, error=EvidenceError)


def _warn(estimate: Evidence, interrupted: bool, num_steps: int) -> None:
    if interrupted:
        reached = estimate.training_loss.shape[1] - 1
        warnings.warn(f"sgd_evidence was interrupted: {reached} of {num_steps} steps were kept.", InterruptWarning, stacklevel=4)
    if estimate.num_failed:
        warnings.warn(
            f"sgd_evidence: {estimate.num_failed} of {len(estimate.finite)} restarts became infinite or NaN and were left out. The others "
            "are those that went well, so their mean may be too high; lower step_size until none fails.",
            FailedRestartWarning,
            stacklevel=4,
        )
    step = estimate.first_invalid_step
    if step is not None:
        seen = estimate.max_curvature[estimate.checked_steps == step][0]
        advised = 0.3 * estimate.step_size[step] / estimate.max_curvature.max()
        warnings.warn(
            f"sgd_evidence: at step {step}, step size times the largest curvature was {seen:.3g}, beyond {estimate.limit:g}, up to which "
            f"order={estimate.order!r} estimates a lower bound. Nothing after that step is a bound, and best_step is not looked for "
            f"there. Write step_size={advised:.2g}" + (", or order=4." if estimate.order == 2 and seen < LIMITS[4] else "."),
            EvidenceRangeWarning,
            stacklevel=4,
        )
