"""What to say of a training run that was not undone."""

from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms import DerivativeError, grad
from ...transforms.autodiff.trees import leaf_names
from .program import Outcome, Problem

__all__ = ["raise_failure"]

_REPLAYED = 64  # steps at which the gradient is computed twice


def raise_failure(problem: Problem, params: Any, hypers: Any, outcome: Outcome) -> NoReturn:
    """Raises a `DerivativeError` that names the step and the parameter, and what to do. problem: on its data."""
    state = problem.start(params, hypers)
    names = leaf_names(jax.tree.structure(state))
    if not bool(outcome.report.in_range):
        outside = np.asarray(outcome.report.outside)
        leaf = int(np.argmin(outside))
        raise DerivativeError(
            f"hypergradient: the training state{names[leaf]} went beyond 2048 in size, or was not finite, at step {outside[leaf]} of "
            f"{problem.num_steps}. The fixed-point numbers of an exact reversal hold no more. Use a smaller step size, or units in which "
            'this parameter is smaller; strategy="tree" has no such range.'
        )
    found = _differing(problem, state, hypers)
    if found is not None:
        step, name = found
        raise DerivativeError(
            f"hypergradient: the gradient of train_loss is not the same when it is computed twice, first at step {step} in params{name}, "
            "so that training cannot be undone. Derive random numbers from `step` (jax.random.fold_in(key, step)) and let no host callback "
            "change them; on a GPU set XLA_FLAGS=--xla_gpu_deterministic_ops=true, or sums over segments are added up in any order; or "
            'use strategy="tree", which does not undo steps.'
        )
    raise DerivativeError(
        "hypergradient: training was not undone bit for bit, though the gradient of train_loss repeats itself: it has other bits in the "
        f"program that goes back. Write snapshot_every={max(problem.num_steps // 10, 1)}, so that what does not arrive is run again, or "
        'strategy="tree".'
    )


def _differing(problem: Problem, state: Any, hypers: Any) -> tuple[int, str] | None:
    """The first step and leaf of params at which two evaluations of the gradient differ."""
    gradient = jax.jit(lambda p, h, i: grad(lambda q: problem.training.loss(q, h, i))(p))
    step = jax.jit(lambda i, s, h: problem.training.step(h)(i, s))
    names = leaf_names(jax.tree.structure(state["position"]))
    for number in range(min(problem.num_steps, _REPLAYED)):
        i = jnp.int32(number)
        twice = [jax.tree.leaves(gradient(state["position"], hypers, i)) for _ in range(2)]
        for a, b, name in zip(*twice, names, strict=True):
            if not np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True):
                return number, "" if name == "the value" else name
        state = step(i, state, hypers)
    return None
