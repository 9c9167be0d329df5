"""`lc.hypergradient`: the gradient of a validation loss through a whole training run."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any, Literal

import jax
import jax.numpy as jnp

from ...transforms import DerivativeError
from ...transforms.reversible.cost import Choice, Strategy, check_strategy, choose, cost_of_reversal
from ...transforms.reversible.traced import words_needed
from ...transforms.settings import choice, flag, number, whole
from .failures import raise_failure
from .given import check_training, trace_functions
from .memory import predicted_bytes
from .probe import ROUGH, smoothness
from .program import Data, Problem, compiled, roomy, trained
from .record import Hypergradient, RoughHypergradientWarning
from .training import Training

__all__ = ["hypergradient", "planned"]

_OWNER = "hypergradient"


def hypergradient(
    train_loss: Callable[..., Any],
    valid_loss: Callable[..., Any],
    params: Any,
    hypers: dict[str, Any],
    *,
    num_steps: int,
    optimiser: Any = "sgd_momentum",
    strategy: Strategy = "auto",
    snapshot_every: int | None = None,
    memory_bytes: float = 1e9,
    fanout: int = 4,
    probe: bool = True,
    on_failure: Literal["raise", "nan"] = "raise",
) -> Hypergradient:
    """The gradient of valid_loss after training, with respect to every number that training depends on.

        v <- decay v - (1 - decay) grad train_loss(params, hypers, step)
        params <- params + step_size v                                     num_steps times, from v = 0

    Step sizes for each step and layer, momenta, penalties for each weight, weights of examples, the training data themselves: whatever is
    in `hypers` and train_loss reads. What changes from call to call belongs into `hypers` (a seed, too: an integer or a key there has no
    gradient): a function is traced once, with the arrays that it closes over, and the program compiled for it serves all later calls.

    Args:
        train_loss: (params, hypers, step) -> a real scalar. step: int32, for minibatches and random numbers.
        valid_loss: (params) or (params, hypers) -> a real scalar.
        params: before the first step: a pytree of floating point arrays; or (hypers) -> one, for scales of initial values.
        hypers: a dict; "step_size" and "decay" are read by the optimiser: each a scalar, an array (num_steps,), or a pytree of these by
            layer of params. decay: in (0, 1], rounded to a multiple of 2^-16. For knobs on another scale write
            `hypers, pull = jax.vjp(natural, knobs)` before, and `pull(result.gradient)` after.
        optimiser: "sgd_momentum"; "sgd", "nesterov" (not reversible); an optax gradient transformation, or (hypers) -> one so that
            its numbers have gradients (not reversible).
        strategy, snapshot_every, memory_bytes, fanout: how the states of training are had again, see `transforms.reversible_loop`.
        probe: whether to measure the smoothness, which takes three more runs of training; see `Hypergradient.smoothness`.
        on_failure: "raise" an error if values leave the range of the fixed-point numbers or training is not undone bit for bit, or return
            with NaN as the gradient.

    Returns:
        `Hypergradient`: .value, .gradient (like hypers), .params, .exact, .in_range, .bytes, .evaluations, .smoothness and more.

    Raises:
        DerivativeError: an argument makes no sense, or does not fit (names it); a value leaves the range (names step and parameter); the
            gradient is not the same when it is computed twice (names step and parameter); nothing fits `memory_bytes`.

    Source: Maclaurin, Duvenaud & Adams (2015), "Gradient-based hyperparameter optimization through reversible learning", ICML,
    algorithm 2, with its indices in the order that undoes algorithm 1.
    """
    num_steps = whole(_OWNER, "num_steps", num_steps, 1, error=DerivativeError)
    check_strategy(_OWNER, strategy)
    segment = num_steps if snapshot_every is None else whole(_OWNER, "snapshot_every", snapshot_every, 1, error=DerivativeError)
    number(_OWNER, "memory_bytes", memory_bytes, lambda x: x > 0, "a positive number", error=DerivativeError)
    whole(_OWNER, "fanout", fanout, 2, error=DerivativeError)
    flag(_OWNER, "probe", probe, error=DerivativeError)
    choice(_OWNER, "on_failure", on_failure, ("raise", "nan"), error=DerivativeError)
    training = Training(train_loss, optimiser)
    initial = params if callable(params) else None
    params, hypers = check_training(training, params, hypers, num_steps)
    loss, valid, begin = trace_functions(train_loss, valid_loss, params, initial, hypers)
    data = Data(loss.consts, valid.consts, begin.consts if begin else ())
    training = Training(loss.function, optimiser)
    problem = Problem(training, valid.function, begin and begin.function, num_steps, strategy, (), segment, fanout)
    problem, chosen = planned(problem, params, hypers, data, memory_bytes)
    program = compiled(problem, params, hypers, data)
    begun = perf_counter()
    outcome = jax.block_until_ready(program.run(params, hypers, data))
    seconds = perf_counter() - begun
    exact, in_range = bool(outcome.report.exact), bool(outcome.report.in_range)
    failed = not (exact and in_range)
    if failed and on_failure == "raise":
        raise_failure(problem.on(data), params, hypers, outcome)
    gradient, initial_gradient = jax.tree.map(_nan if failed else lambda x: x, (outcome.gradient, outcome.initial_gradient))
    smooth = float("nan")
    if probe and not failed:
        smooth = smoothness(lambda h: trained(problem, params, h, data), hypers, gradient)
        if not smooth >= ROUGH:
            warnings.warn(
                f"hypergradient: smoothness {smooth:.2g}, below {ROUGH}. Training is chaotic here: one per mille along the gradient, and "
                "one more, change the trained params in unlike ways. The gradient is the right one of this very run, and no guide for a "
                "step. Use smaller step sizes or fewer steps, or average over seeds.",
                RoughHypergradientWarning,
                stacklevel=2,
            )
    return Hypergradient(
        value=float(outcome.value),
        gradient=gradient,
        initial_gradient=initial_gradient,
        params=outcome.params,
        exact=exact,
        in_range=in_range,
        repaired=int(outcome.report.repaired),
        strategy=problem.strategy,
        bytes=program.bytes,
        kept_bytes=chosen.kept_bytes,
        evaluations=chosen.evaluations,
        smoothness=smooth,
        seconds=seconds,
        compile_seconds=program.seconds,
        predict=lambda: predicted_bytes(problem.on(data), params, hypers, chosen.kept_bytes),
    )


def planned(problem: Problem, params: Any, hypers: Any, data: Data, memory_bytes: float) -> tuple[Problem, Choice]:
    """The problem with its strategy and the size of its store; and what the strategy costs."""
    here = problem.on(data)
    state = jax.eval_shape(here.start, params, hypers)
    reversible, words = None, ()
    if problem.training.reversible:
        needed = words_needed(here.training.update(hypers), state, problem.num_steps)
        words = roomy(problem, (params, hypers), needed)
        sizes, slots = [[x.size for x in jax.tree.leaves(tree)] for tree in (state, state["velocity"])]
        reversible = cost_of_reversal(sizes, slots, words, problem.num_steps, problem.segment)
    chosen = choose(_OWNER, problem.strategy, jax.tree.leaves(state), problem.num_steps, reversible, memory_bytes, problem.fanout)
    words = words if chosen.strategy == "reversible" else ()
    return replace(problem, strategy=chosen.strategy, words=words), chosen


def _nan(value: Any) -> Any:
    return value if value.dtype == jax.dtypes.float0 else jnp.full_like(value, jnp.nan)
