"""The memory that a hypergradient takes beside its arguments and results, before its program is compiled.

Carries that are kept: what is kept + cotangents + temporaries of one turn pulled back; the first two are known by arithmetic, the last from
compiling the turn. Steps that are undone: all that the loop backwards holds, from compiling it without what stands around it.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...transforms.reversible.steps import Given, Steps, Tables
from ...transforms.reversible.traced import trace_update
from .program import Problem

__all__ = ["predicted_bytes"]


def predicted_bytes(problem: Problem, params: Any, hypers: Any, kept_bytes: int) -> int:
    """In bytes; within some ten per cent of what the compiler reports for the whole program.

    Args:
        problem: with its strategy and the size of its store, on its data. kept_bytes: for the way back.
    """
    state = problem.start(params, hypers)
    if problem.strategy == "reversible":
        return _undone(problem, state, hypers)
    return kept_bytes + _pulled_back(problem, state, hypers)


def _pulled_back(problem: Problem, state: Any, hypers: Any) -> int:
    """Bytes of the cotangents, and of the temporaries of one turn."""
    traced = problem.traced(state, hypers)
    turn, carry, params = traced.turn, traced.carry, traced.params
    cotangents = [jnp.zeros_like(c) for c, on in zip(carry, turn.on_carry, strict=True) if on]
    sums = turn.no_params_cts(params)
    memory = _memory(lambda *xs: turn.back(xs[0], traced.consts, *xs[1:]), jnp.int32(0), carry, params, cotangents)
    return _size((cotangents, sums)) + memory.temp_size_in_bytes


def _undone(problem: Problem, state: Any, hypers: Any) -> int:
    """Bytes of the loop that undoes steps: what it carries, its temporaries, and the tables that it reads."""
    program, consts, theta = trace_update(
        problem.training.update, hypers, state, problem.num_steps, problem.words, problem.training.loss.consts
    )
    steps, carry, rows = Steps(program), jax.tree.leaves(state), (problem.num_steps, len(program.words))
    with jax.enable_x64(True):
        held = jax.eval_shape(steps.start, carry)
        adjoint = jax.eval_shape(steps.adjoint, theta, carry)
        tables = Tables(jax.ShapeDtypeStruct(rows, jnp.int32), jax.ShapeDtypeStruct(rows, bool))

        def loop(number: Any, state: Any, theta: Any, tables: Tables) -> Any:
            given = Given(consts, theta, tables)
            return lax.fori_loop(jnp.int32(0), number, lambda k, s: steps.backward(number - k, s, given), state)

        memory = _memory(loop, jnp.int32(0), (held, adjoint), theta, tables)
    return memory.temp_size_in_bytes + memory.output_size_in_bytes + _size(tables)


def _memory(function: Any, *args: Any) -> Any:
    return jax.jit(function).lower(*args).compile().memory_analysis()


def _size(values: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(values))
