"""The programs of a hypergradient, compiled once for each function, structure and types."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...transforms import vjp
from ...transforms.autodiff.checkpoints import Checkpoints
from ...transforms.autodiff.core import is_differentiable
from ...transforms.autodiff.trees import float0_zeros
from ...transforms.autodiff.turns import TracedStep, trace_step
from ...transforms.bounded import bounded_jit
from ...transforms.reversible.reversal import Report, Reversal
from ...transforms.reversible.traced import trace_update
from .functions import Bound, types_of
from .training import Training

__all__ = ["Compiled", "Data", "Outcome", "Problem", "compiled", "roomy", "trained"]

_MAX_PROGRAMS = 16


class Outcome(NamedTuple):
    """What a program returns.

    Attributes:
        value: of valid_loss. gradient: like hypers. initial_gradient: like params. params: at the end.
        report: how the way back went.
    """

    value: Any
    gradient: Any
    initial_gradient: Any
    params: Any
    report: Report


class Data(NamedTuple):
    """The arrays that train_loss, valid_loss and the function of the initial params close over."""

    train: Sequence[Any]
    valid: Sequence[Any]
    initial: Sequence[Any]


@dataclass(frozen=True)
class Problem:
    """Everything that a program is compiled for but the types of its arguments.

    Attributes:
        training: the inner loop. valid_loss: (params, hypers) -> a real scalar. initial: hypers -> params; None if params are given.
            Each function as a `Function`; bound to its data by `on`.
        num_steps: of the loop. strategy: one of the four. words: of the store; empty for the other strategies.
        segment: steps between snapshots. fanout: of a tree.
    """

    training: Training
    valid_loss: Any
    initial: Any
    num_steps: int
    strategy: str
    words: tuple[int, ...]
    segment: int
    fanout: int

    def on(self, data: Data) -> "Problem":
        """The problem with the arrays that its functions close over."""
        training = replace(self.training, loss=Bound(self.training.loss, data.train))
        initial = None if self.initial is None else Bound(self.initial, data.initial)
        return replace(self, training=training, valid_loss=Bound(self.valid_loss, data.valid), initial=initial)

    def start(self, params: Any, hypers: Any) -> Any:
        """The state before the first step."""
        made = params if self.initial is None else jax.tree.map(jnp.asarray, self.initial(hypers))
        return self.training.start(made, hypers)

    def traced(self, state: Any, hypers: Any) -> TracedStep:
        """A step in floating point, as a turn."""
        return trace_step("hypergradient", lambda i, s, h: self.training.step(h)(i, s), jnp.int32(0), state, hypers)

    def differentiate(self, params: Any, hypers: Any) -> Outcome:
        """Train, evaluate, and go back to the first step."""
        state, pull_start = vjp(self.start, params, hypers)
        leaves, tree = jax.tree.flatten(state)
        after, back = self.train(state, hypers)
        end = jax.tree.unflatten(tree, after)
        value, pull_end = vjp(self.valid_loss, end["position"], hypers)
        of_end, direct = pull_end(jnp.ones((), value.dtype))
        arriving = {name: of_end if name == "position" else jax.tree.map(_zero, entry) for name, entry in end.items()}
        of_start, of_hypers, report = back([ct for ct in jax.tree.leaves(arriving) if is_differentiable(ct)])
        rest = iter(of_start)
        of_state = jax.tree.unflatten(tree, [next(rest) if is_differentiable(x) else _zero(x) for x in leaves])
        of_params, by_start = pull_start(of_state)
        rest = iter(of_hypers)
        through = jax.tree.map(lambda h: next(rest) if is_differentiable(h) else _zero(h), hypers)
        gradient = jax.tree.map(lambda h, *cts: sum(cts) if is_differentiable(h) else _zero(h), hypers, direct, through, by_start)
        return Outcome(value, gradient, of_state["position"] if self.initial else of_params, end["position"], report)

    def train(self, state: Any, hypers: Any) -> tuple[list[Any], Callable[[Sequence[Any]], tuple[list[Any], list[Any], Report]]]:
        """The leaves of the state after the last step; and the way back from their cotangents to those at the start and of hypers."""
        if self.strategy == "reversible":
            program, consts, theta = trace_update(
                self.training.update, hypers, state, self.num_steps, self.words, self.training.loss.consts
            )
            reversal, carry = Reversal(program, self.segment), jax.tree.leaves(state)
            outs, kept = reversal.record(consts, theta, carry)

            def undo(cts: Sequence[Any]) -> tuple[list[Any], list[Any], Report]:
                of_carry, of_theta, report = reversal.reverse(consts, theta, carry, kept, cts)
                return of_carry, [ct for ct in of_theta if ct is not None], report

            return outs, undo
        traced = self.traced(state, hypers)
        way, n = Checkpoints.of(self.strategy, self.num_steps, self.fanout), jnp.int32(self.num_steps)
        outs, rows = way.record(n, traced.turn, traced.consts, traced.carry, traced.params)
        nowhere = jnp.full((len(outs),), self.num_steps, jnp.int32)

        def again(cts: Sequence[Any]) -> tuple[list[Any], list[Any], Report]:
            made = way.backwards(n, traced.turn, traced.consts, traced.params, rows, cts)
            return *made, Report(jnp.bool_(True), jnp.int32(0), jnp.bool_(True), nowhere)

        return outs, again

    def only_train(self, params: Any, hypers: Any) -> Any:
        """The params after the last step, in floating point."""
        traced = self.traced(self.start(params, hypers), hypers)
        way = Checkpoints.of("tape", self.num_steps)
        outs = way.run(jnp.int32(self.num_steps), traced.turn, traced.consts, traced.carry, traced.params)
        return jax.tree.unflatten(traced.carry_tree, outs)["position"]


def _zero(value: Any) -> Any:
    return jnp.zeros_like(value) if is_differentiable(value) else float0_zeros(value)


class Compiled(NamedTuple):
    """run: the compiled `Problem.differentiate`, of params, hypers and data. seconds: of tracing and compiling. bytes: beside these."""

    run: Callable[[Any, Any, Data], Outcome]
    seconds: float
    bytes: int


def compiled(problem: Problem, params: Any, hypers: Any, data: Data) -> Compiled:
    """The program of a problem for arguments of these types."""
    return _compiled(problem, *types_of((params, hypers, data)), jnp.result_type(float) == jnp.float64)


@functools.lru_cache(_MAX_PROGRAMS)
def _compiled(problem: Problem, tree: Any, avals: tuple[Any, ...], wide: bool) -> Compiled:
    begun = perf_counter()
    run = (
        jax.jit(lambda params, hypers, data: problem.on(data).differentiate(params, hypers))
        .lower(*jax.tree.unflatten(tree, avals))
        .compile()
    )
    memory: Any = run.memory_analysis()
    return Compiled(run, perf_counter() - begun, memory.temp_size_in_bytes)


def roomy(problem: Problem, arguments: Any, words: Sequence[int]) -> tuple[int, ...]:
    """Sizes of the store for so many words: those of the program that serves already, else with room for decays that go on falling.

    An optimiser that moves decays asks for a little more at every call, of one leaf or another, and to compile takes a hundred times as
    long as to run. So the store of all leaves gets room for twice the bits (the first 48 are elsewhere), and shrinks where most is idle.
    """
    earlier = _earlier(problem, *types_of(arguments))
    if not earlier:
        earlier[:] = [int(w * 1.05) for w in words]
    elif any(w > had for w, had in zip(words, earlier, strict=True)):
        earlier[:] = [max(had, 2 * w + 3) for w, had in zip(words, earlier, strict=True)]
    elif any(had > 4 * w + 16 for w, had in zip(words, earlier, strict=True)):
        earlier[:] = [int(w * 1.05) for w in words]
    return tuple(earlier)


@functools.lru_cache(_MAX_PROGRAMS)
def _earlier(problem: Problem, tree: Any, avals: tuple[Any, ...]) -> list[int]:
    """The sizes last taken."""
    return []


def trained(problem: Problem, params: Any, hypers: Any, data: Data) -> Any:
    """The params that training ends at."""
    return _only_train(replace(problem, strategy="tape", words=(), segment=1), params, hypers, data)


@bounded_jit(static_argnums=0, maxsize=_MAX_PROGRAMS)
def _only_train(problem: Problem, params: Any, hypers: Any, data: Data) -> Any:
    return problem.on(data).only_train(params, hypers)
