"""The memory that a hypergradient takes beside its arguments and results, before its program is compiled.

    what is kept for the way back + cotangents + temporaries of one turn pulled back

The first is known by arithmetic, the last from compiling one turn alone, whatever the number of steps.
"""

from typing import Any

import jax
import jax.numpy as jnp

from ...transforms.reversible.steps import Adjoint, Given, Steps, Tables, is_differentiable
from ...transforms.reversible.traced import trace_update
from .program import Problem

__all__ = ["predicted_bytes"]


def predicted_bytes(problem: Problem, params: Any, hypers: Any, kept_bytes: int) -> int:
    """In bytes; within some ten per cent of what the compiler reports for the whole program.

    Args:
        problem: with its strategy and the size of its store, on its data. kept_bytes: for the way back.
    """
    state = problem.start(params, hypers)
    one_turn = _undone(problem, state, hypers) if problem.strategy == "reversible" else _pulled_back(problem, state, hypers)
    return kept_bytes + sum(one_turn)


def _pulled_back(problem: Problem, state: Any, hypers: Any) -> tuple[int, int]:
    """Bytes of the cotangents, and of the temporaries of one turn, for carries that are kept."""
    traced = problem.traced(state, hypers)
    turn, carry, params = traced.turn, traced.carry, traced.params
    cotangents = [jnp.zeros_like(c) for c, on in zip(carry, turn.on_carry, strict=True) if on]
    sums = turn.no_params_cts(params)
    return _size((cotangents, sums)), _temporaries(
        lambda *xs: turn.back(xs[0], traced.consts, *xs[1:]), jnp.int32(0), carry, params, cotangents
    )


def _undone(problem: Problem, state: Any, hypers: Any) -> tuple[int, int]:
    """The same for a step that is undone."""
    program, consts, theta = trace_update(
        problem.training.update, hypers, state, problem.num_steps, problem.words, problem.training.loss.consts
    )
    steps, carry, rows = Steps(program), jax.tree.leaves(state), (problem.num_steps, len(program.words))
    with jax.enable_x64(True):
        held = jax.eval_shape(steps.start, carry)
        given = Given(consts, theta, Tables(jax.ShapeDtypeStruct(rows, jnp.int32), jax.ShapeDtypeStruct(rows, bool)))
        adjoint = Adjoint(
            tuple(jax.ShapeDtypeStruct(x.shape, jnp.float64) for x in carry),
            tuple(jax.ShapeDtypeStruct(x.shape, jnp.float64) for x in theta if is_differentiable(x)),
            jax.ShapeDtypeStruct(rows, jnp.float64),
        )
        turn = lambda i, state, theta, tables: steps.backward(i, state, Given(consts, theta, tables))  # noqa: E731
        return _size(adjoint), _temporaries(turn, jnp.int32(0), (held, adjoint), theta, given.tables)


def _temporaries(function: Any, *args: Any) -> int:
    memory: Any = jax.jit(function).lower(*args).compile().memory_analysis()
    return memory.temp_size_in_bytes


def _size(values: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(values))
