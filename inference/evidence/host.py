"""The host loop: go through the path in short calls, gather what it leaves, report, hear an interrupt."""

from time import perf_counter
from typing import NamedTuple

import jax
import numpy as np

from ...transforms import EvidenceError
from ..run.progress import Progress
from .descent import CAPACITY, Data, Path, State, Track, advance, begin
from .roots import Identity

__all__ = ["Descended", "descend"]

_CALL_SECONDS = 0.3  # an interrupt is heard, and the bar moves, about this often
_FIRST_CALL = 4


class Descended(NamedTuple):
    """state: after the last step. log_start: (restart,), log q_0. track: (restart, step) each, float64. interrupted: by the user."""

    state: State
    log_start: np.ndarray
    track: Track
    interrupted: bool


def descend(path: Path, data: Data, key: jax.Array, num_restarts: int, step_sizes: np.ndarray, progress: Progress) -> Descended:
    """All restarts from q_0 through `len(step_sizes)` steps; it leaves one row more, for the position after the last.

    Raises:
        EvidenceError: every restart has become infinite or NaN.
    """
    moves = np.append(step_sizes, 0.0).astype(path.objective.layout.dtype)
    numbers = np.arange(num_restarts, dtype=np.uint32)
    state = begin(path.objective, path.num_rows, path.fresh, path.place, data, key, numbers)
    log_start, chunks, done, size = np.asarray(state.log_start), [], 0, _FIRST_CALL
    interrupted = False
    try:
        while done < len(moves):
            number = min(size, len(moves) - done)
            sizes = np.zeros(CAPACITY, moves.dtype)
            sizes[:number] = moves[done : done + number]
            begun = perf_counter()
            state, chunk = advance(path, state, data, sizes, np.int32(number))
            chunks.append(Track(*(np.asarray(rows)[:number].T.astype(np.float64) for rows in chunk)))
            seconds = perf_counter() - begun
            done += number
            if done > _FIRST_CALL:  # the first call also compiled
                size = int(np.clip(number * _CALL_SECONDS / seconds, 1, CAPACITY))
            if not np.isfinite(chunks[-1].loss[:, -1]).any():
                raise _all_failed(path, data, _joined(chunks), step_sizes)
            progress.reached("descent", min(done, len(step_sizes)))
            best = f", bound {float(state.best_mean):.6g} nats at step {int(state.best_step)}" if path.peak else ""
            progress.note(f"{num_restarts} restarts{best}")
    except KeyboardInterrupt:
        if not chunks:
            raise
        interrupted = True
    return Descended(state, log_start, _joined(chunks), interrupted)


def _joined(chunks: list[Track]) -> Track:
    return Track(*(np.concatenate(rows, axis=1) for rows in zip(*chunks, strict=True)))


def _all_failed(path: Path, data: Data, track: Track, step_sizes: np.ndarray) -> EvidenceError:
    """All restarts failed: at which step, and which step size would not have."""
    finite = np.isfinite(track.loss) & np.isfinite(track.log_prior) & np.isfinite(track.log_det)
    step = int(np.argmin(np.logical_and.accumulate(finite, axis=1).any(axis=0)))
    if step == 0 and not np.isfinite(track.loss[:, 0]).any():
        return EvidenceError(
            "sgd_evidence: the density is zero, infinite or NaN at every draw from the start, so there is no path to follow. Look at "
            "`lc.prior_predictive`: a prior that is much too wide, or a likelihood with hard limits, does this."
        )
    if not isinstance(data.rule.root, Identity):
        return EvidenceError(
            f"sgd_evidence: every restart has become infinite or NaN by step {step} of {len(step_sizes)}: the density is far from that of "
            'the fit, or has hard limits. Write num_steps="auto", inflate=1.1, or another start.'
        )
    seen = track.curvature[np.isfinite(track.curvature[:, 0]), 0].max(initial=0)  # later ones have grown with the divergence
    safe = min(step_sizes[min(step, len(step_sizes) - 1)] / 10, 0.3 * step_sizes[0] / seen) if seen > 0 else step_sizes[0] / 10
    return EvidenceError(
        f"sgd_evidence: every restart has become infinite or NaN by step {step}; at step 0, step size times the largest "
        f"curvature was {seen:.3g}, and beyond 2 descent diverges. Write step_size={safe:.2g}, or smaller."
    )
