"""One path from its plan to what is left of it, and the choice between paths."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from ...transforms import EvidenceError
from ...transforms.bounded import bounded_jit
from ...transforms.keys import random_key
from ..run.progress import Progress
from .batches import Batches
from .descent import Data, Path
from .doubts import NOTHING
from .estimators import LIMITS
from .fits import FULL, Fits
from .host import Descended, descend
from .keywords import Resolved
from .kinks import unseen_curvature
from .objective import Objective
from .plan import Asked, Plan, Start, first_length, last_length, plan
from .remarks import check_some_valid
from .result import Evidence, Tried
from .spread import Spread

__all__ = ["Problem", "choose", "estimate", "follow", "report", "with_samples"]

_CHECK_EVERY = 10  # steps between two looks at the curvature, in plain descent of a large model; else every step has one
_ROUNDING = 32  # units in the last place that the mean over restarts may be off by on the device
_MARGIN = 0.68  # of the limit: what the restarts that choose must keep, so that the others keep the limit
_CHOOSING = 16  # restarts that choose a path of a large model; for a small one as many as report
_CHOICE = 2**31 - 1  # folded into the key of those that choose


class Problem(NamedTuple):
    """What all paths of an estimate have in common.

    Attributes:
        objective: the model. batches, held_out: on a batch, and on the test data, or None. train, test: their data.
        asked: keywords that make a path. num_probes, fresh, evaluate_every: as in `Path`.
        fits: to start from. key: the user's, two words.
        spread: where restarts or rows are split, if they are; of restarts that choose a path see `Spread.of_restarts`.
    """

    objective: Objective
    batches: Batches | None
    held_out: Objective | None
    train: tuple
    test: tuple
    asked: Asked
    num_probes: int
    fresh: bool
    evaluate_every: int
    fits: Fits
    key: np.ndarray
    spread: Spread | None

    def spread_of(self, num_restarts: int) -> Spread | None:
        """Where so many restarts lie; None if all is on one device."""
        return None if self.spread is None else self.spread.of_restarts(num_restarts)

    def path(self, plan: Plan, num_restarts: int) -> Path:
        """What the programs of a plan are compiled for."""
        small, spread = self.objective.layout.dim <= FULL, self.spread_of(num_restarts)
        return Path(
            objective=self.objective,
            batches=self.batches,
            held_out=self.held_out,
            joint=plan.joint,
            peak=not plan.joint and not (spread and spread.place.axes),
            order=self.asked.order,
            num_probes=self.num_probes,
            fresh=self.fresh,
            evaluate_every=self.evaluate_every,
            check_every=1 if small or self.asked.preconditioner else _CHECK_EVERY,
            place=None if spread is None else spread.place,
        )

    def data(self, plan: Plan, num_restarts: int) -> Data:
        """The arrays of a plan, where its restarts are."""
        spread = self.spread_of(num_restarts) or self
        return Data(spread.train, spread.test, plan.normal, plan.rule, np.int32(len(plan.step_sizes)))


def estimate(problem: Problem, now: Resolved, num_restarts: int, progress_bar: bool, known: Plan | None = None) -> tuple[Plan, Evidence]:
    """Choose a path, follow it with restarts of its own, and read the bound: everything but what speaks against a fit.

    Args:
        known: a path that has been chosen before, to be followed as it is.

    Raises:
        EvidenceError: every restart failed, or no path was valid.
    """
    with Progress(1, num_restarts, progress_bar) as progress:
        progress.reached("fit", 0)
        chosen, tried = choose(problem, now.starts, now.num_steps, num_restarts) if known is None else (known, ())
        fixed = known is not None or now.num_steps is not None
        chosen, evidence, descended = report(problem, chosen, fixed, num_restarts, progress)
    check_some_valid(evidence)
    return chosen, replace(with_samples(problem, chosen, random_key(problem.key), evidence, descended), tried=tried)


def choose(problem: Problem, starts: Sequence[Start], num_steps: int | None, num_restarts: int) -> tuple[Plan, tuple[Tried, ...]]:
    """From each start the first T with which its paths keep a margin from the limit; of these the path with the largest bound.

    Restarts of their own choose, so that what is reported later is not the luckiest.

    Args:
        num_steps: T; None if it is to be found.

    Returns:
        The plan, and what was tried; nothing if there is no choice.
    """
    if num_steps is not None and len(starts) == 1:
        return plan(problem.asked, starts[0], num_steps, problem.fits), ()
    number = num_restarts if problem.objective.layout.dim <= FULL else min(num_restarts, _CHOOSING)
    key = jax.random.fold_in(random_key(problem.key), _CHOICE)
    tried: list[tuple[Tried, Plan]] = []
    for start in starts:
        length, last = num_steps or first_length(problem.asked.preconditioner), num_steps or last_length(start)
        while True:
            now = plan(problem.asked, start, length, problem.fits)
            tried.append((_try(problem, now, key, number), now))
            if tried[-1][0].kept or length >= last:
                break
            length = min(last, length * _times_longer(problem, tried[-1][0].curvature))
    ends = [
        pair for pair, following in zip(tried, [*tried[1:], None], strict=True) if following is None or following[1].start != pair[1].start
    ]
    best = max([pair for pair in ends if pair[0].kept] or ends, key=lambda pair: pair[0].bound)
    return best[1], tuple(t for t, _ in tried)


def _times_longer(problem: Problem, curvature: float) -> int:
    """The power of two by which T must grow: what the guard saw shrinks in proportion."""
    beyond = curvature / (_MARGIN * LIMITS[problem.asked.order])
    return 2 ** int(np.clip(np.ceil(np.log2(beyond)), 1, 6)) if np.isfinite(beyond) and beyond > 0 else 4


def _try(problem: Problem, plan: Plan, key: jax.Array, num_restarts: int) -> Tried:
    """A path with restarts that only choose."""
    try:
        found, _ = follow(problem, plan, key, num_restarts, Progress(1, 1, shown=False))
    except EvidenceError:  # every restart failed; if the longest path does too, those that report say so
        return Tried(plan.start, plan.num_steps, -np.inf, np.inf, False)
    curvature = float(found.max_curvature.max(initial=0))
    return Tried(plan.start, plan.num_steps, found.bound, curvature, found.passed and curvature <= _MARGIN * found.limit)


def report(problem: Problem, chosen: Plan, fixed: bool, num_restarts: int, progress: Progress) -> tuple[Plan, Evidence, Descended]:
    """The chosen path with the restarts that report; with a larger T, unless it is fixed, if one of them meets a step that is too long."""
    key = random_key(problem.key)
    while True:
        progress.expect(len(chosen.step_sizes))
        evidence, descended = follow(problem, chosen, key, num_restarts, progress)
        if fixed or evidence.passed or descended.interrupted or chosen.num_steps >= last_length(chosen.start):
            return chosen, evidence, descended
        chosen = plan(problem.asked, chosen.start, 2 * chosen.num_steps, problem.fits)


def follow(problem: Problem, plan: Plan, key: jax.Array, num_restarts: int, progress: Progress) -> tuple[Evidence, Descended]:
    """All restarts from the start to the end; what they leave, without samples, and the device's state."""
    path = problem.path(plan, num_restarts)
    descended = descend(path, problem.data(plan, num_restarts), key, num_restarts, plan.step_sizes, progress)
    track = descended.track
    length = track.loss.shape[1]
    steps = np.flatnonzero((np.arange(length) % path.evaluate_every == 0) | (np.arange(length) == len(plan.step_sizes)))
    changes = np.cumsum(track.log_det, axis=1)  # the last is that of a step of size zero
    changes = np.concatenate([np.zeros((num_restarts, 1)), changes], axis=1)
    log_start = np.asarray(descended.log_start, np.float64)
    evidence = Evidence(
        steps=steps,
        log_likelihood=track.log_likelihood[:, steps],
        log_prior=track.log_prior[:, steps],
        entropy=changes[:, steps] - log_start[:, None],
        training_loss=track.loss,
        test_log_likelihood=None if path.held_out is None else track.test[:, steps] / path.held_out.num_observed,
        best_step=int(steps[-1]),
        samples={},
        curvature=track.curvature[:, : len(plan.step_sizes)],
        start=plan.start,
        preconditioner=problem.asked.preconditioner,
        num_steps=plan.num_steps,
        inflate=problem.asked.inflate if plan.joint else np.nan,
        order=path.order,
        num_probes=path.num_probes,
        step_size=plan.step_sizes,
        unseen_curvature=0.0,
        doubts=NOTHING,
        tried=(),
        key=problem.key,
        num_observed=problem.objective.num_observed,
        seconds=0.0,
        program=problem.objective.program,
    )
    return (evidence if plan.joint else replace(evidence, best_step=evidence.peak())), descended


def with_samples(problem: Problem, plan: Plan, key: jax.Array, evidence: Evidence, descended: Descended) -> Evidence:
    """The estimate with the step at which it is read, and draws of those that count there."""
    best_step, positions = _end(problem, plan, key, evidence, descended)
    evidence = replace(evidence, best_step=best_step)
    if problem.spread is not None:  # what follows is little, and done where the data were before
        positions = np.asarray(positions)
    positions = positions[np.flatnonzero(evidence.counted[:, evidence.best])]
    values = _constrained(problem.objective, problem.train, positions)
    samples = {name: np.asarray(value) for name, value in values.items()}
    ordered = {name: samples[name] for name in problem.objective.program.sites if name in samples}
    unseen = unseen_curvature(problem.objective, problem.train, plan.joint, positions)
    return replace(evidence, samples=ordered, unseen_curvature=unseen)


def _end(problem: Problem, plan: Plan, key: jax.Array, evidence: Evidence, descended: Descended) -> tuple[int, Any]:
    """The step at which the bound is read, and the positions of all restarts there.

    The device kept those of the largest mean it saw, in the run's float type; if that is another step by rounding only, it will do. If
    it kept none, because the user interrupted or because restarts are split, the path is run again.
    """
    state, best = descended.state, evidence.best_step
    if not state.best.is_deleted() and int(state.best_step) in evidence.steps:
        kept = int(state.best_step)
        if kept == best or (evidence.peaks and evidence.is_peak(kept, _ROUNDING * np.finfo(state.best.dtype).eps)):
            return kept, state.best
    again = Progress(1, 1, shown=False)
    restarts = len(evidence.log_evidence)
    path, data = problem.path(plan, restarts), problem.data(plan, restarts)
    return best, descend(path, data, key, restarts, plan.step_sizes[:best], again).state.position


@bounded_jit(static_argnums=0)
def _constrained(objective: Objective, data, positions: jax.Array) -> dict[str, jax.Array]:
    return jax.vmap(partial(objective.constrain, data))(positions)
