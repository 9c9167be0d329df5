"""An update as programs: one jaxpr for each operation, of flat values and without constants."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer, eval_jaxpr

from ..autodiff.core import Unknown, is_differentiable, linearize_jaxpr
from ..autodiff.transpose import backward
from ..autodiff.trees import leaf_names
from ..autodiff.turns import Turn
from ..errors import DerivativeError
from ..jax_compat import assemble_jaxpr, open_jaxpr
from .store import words_for, words_within
from .update import Add, Multiply, Update, entry_of, increment_of, rational

__all__ = ["Function", "Operation", "Program", "trace_update", "words_needed"]


class Function(NamedTuple):
    """A jaxpr of (constants, theta, i, state): what an operation computes.

    Attributes:
        jaxpr: open, without constants; its leading inputs take `sources`.
        sources: (whether it is one of theta, its number among theta or among the constants), each.
    """

    jaxpr: Any
    sources: tuple[tuple[bool, int], ...]

    def inputs(self, consts: Sequence[Any], theta: Sequence[Any], i: Any, state: Sequence[Any]) -> list[Any]:
        return [*(theta[n] if of_theta else consts[n] for of_theta, n in self.sources), i, *state]

    def value(self, inputs: Sequence[Any], i: Any) -> list[Any]:
        """Computed by itself, so that it has the same bits everywhere: nothing of it is fused with what stands around it.

        What keeps it apart is a branch of which no compiler knows that it is always taken, since i is counted by a loop. (XLA for CPUs
        drops optimization barriers before it fuses, and a product that meets a sum across that edge is rounded once, not twice.)

        Args:
            inputs: of the jaxpr. i: the step, an int32 scalar.
        """
        types = [v.aval for v in self.jaxpr.outvars]
        never = lambda _: [jnp.zeros(a.shape, a.dtype) for a in types]  # noqa: E731
        return list(lax.cond(lax.ge(i, np.int32(0)), lambda xs: eval_jaxpr(self.jaxpr, (), *xs), never, tuple(inputs)))

    def pull(self, inputs: Sequence[Any], cotangents: Sequence[Any], num_state: int) -> tuple[dict[int, Any], list[Any]]:
        """Cotangents of theta, by number, and of the state; None and absent are zero."""
        first = len(self.sources)
        active = [is_differentiable(v.aval) and (n > first or (n < first and self.sources[n][0])) for n, v in enumerate(self.jaxpr.invars)]
        _, program = linearize_jaxpr(self.jaxpr, (), inputs, active, [True] * len(self.jaxpr.outvars))
        made = iter(backward(program.jaxpr, program.residuals, [Unknown(v.aval) for v in program.jaxpr.invars], cotangents))
        cts = [next(made) if a else None for a in active]
        of_theta = {n: ct for (_, n), ct in zip(self.sources, cts[:first], strict=True) if ct is not None}
        return of_theta, cts[first + 1 : first + 1 + num_state]


@dataclass(frozen=True)
class Operation:
    """One operation of a traced update.

    Attributes:
        target: which leaves of the state it changes. function: -> their increments; or (i) -> their factors.
        slots: for a product, the numbers of the remainders of these leaves; empty for a sum.
    """

    target: tuple[int, ...]
    function: Function
    slots: tuple[int, ...] = ()


@dataclass(frozen=True)
class Program:
    """A traced update.

    Attributes:
        operations: in order. names, types: of the leaves of the state.
        words: for each slot, 16-bit words that its remainders may spill.
        slot_leaf: for each slot, the leaf that it belongs to.
        num_steps: of the loop. wide: whether the user's numbers have 64 bits by default.
    """

    operations: tuple[Operation, ...]
    names: tuple[str, ...]
    types: tuple[Any, ...]
    words: tuple[int, ...]
    slot_leaf: tuple[int, ...]
    num_steps: int
    wide: bool

    def factors(self, consts: Sequence[Any], theta: Sequence[Any]) -> Any:
        """The factors of all steps, (step, slot), before they are rounded."""

        def of_step(i: Any) -> Any:
            made = [
                f
                for op in self.operations
                if op.slots
                for f in eval_jaxpr(op.function.jaxpr, (), *op.function.inputs(consts, theta, i, ()))
            ]
            return jnp.stack(made) if made else jnp.zeros((0,))

        return jax.vmap(of_step)(jnp.arange(self.num_steps, dtype=jnp.int32))

    def step(self, consts: Sequence[Any], theta: Sequence[Any], i: Any, state: Sequence[Any]) -> list[Any]:
        """The same step in floating point."""
        state = list(state)
        for op in self.operations:
            made = eval_jaxpr(op.function.jaxpr, (), *op.function.inputs(consts, theta, i, [] if op.slots else state))
            for leaf, number in zip(op.target, made, strict=True):
                state[leaf] = state[leaf] * rational(number).astype(state[leaf].dtype) if op.slots else state[leaf] + number
        return state

    def turn(self, consts: Sequence[Any], theta: Sequence[Any]) -> Turn:
        """The same step as the turn of a loop, of these constants and parameters."""
        n, m = len(self.types), len(consts)
        avals = [*map(jax.typeof, consts), jax.typeof(jnp.int32(0)), *self.types, *map(jax.typeof, theta)]
        run = lambda *xs: self.step(xs[:m], xs[m + 1 + n :], xs[m], xs[m + 1 : m + 1 + n])  # noqa: E731
        jaxpr, none = open_jaxpr(jax.make_jaxpr(run)(*avals))
        assert not none
        constants = dict(zip(jaxpr.invars[:m], consts, strict=True))
        return Turn(assemble_jaxpr(jaxpr, constants, jaxpr.invars[m:], jaxpr.outvars, jaxpr.eqns)[0], m, n)


def words_needed(update: Update, state: Any, num_steps: int) -> tuple[int, ...]:
    """For each slot, the words that its remainders spill: exactly, if the factors are known, else at the most.

    Raises:
        DerivativeError: a factor is outside (0, 1] or below its bound, or does not fit its entry.
    """
    return tuple(w for op in update.operations if isinstance(op, Multiply) for w in _words(op, state, num_steps))


def trace_update(
    build: Callable[[Any], Update], theta: Any, state: Any, num_steps: int, words: Sequence[int] | None = None, data: Sequence[Any] = ()
) -> tuple[Program, list[Any], list[Any]]:
    """An update as a program.

    Args:
        build: theta -> the update; what its functions close over may be traced.
        theta: a pytree. state: a dict of floating point arrays.
        words: as `words_needed` has them; by default it is asked.
        data: values that are constants though they are traced.

    Returns:
        The program, its constants, and theta: the leaves of the argument, then the traced values that the functions close over.

    Raises:
        DerivativeError: the state has other leaves than real floating point numbers; a factor is outside (0, 1] or below its bound;
            an increment reads its own target or does not fit it.
    """
    _check_state(state)
    leaves, tree = jax.tree.flatten(state)
    theta_leaves, theta_tree = jax.tree.flatten(theta)
    tracer = _Tracer(list(theta_leaves), data)
    operations: list[Operation] = []
    slot_leaf: list[int] = []
    places = jax.tree.unflatten(tree, range(len(leaves)))
    update = build(theta)
    words = words_needed(update, state, num_steps) if words is None else tuple(words)
    for number, operation in enumerate(update.operations):
        target = tuple(jax.tree.leaves(entry_of(places, operation.target)))

        def run(theta: Sequence[Any], i: Any, values: Sequence[Any], number: int = number) -> list[Any]:
            of = build(jax.tree.unflatten(theta_tree, theta)).operations[number]
            entries = jax.tree.unflatten(tree, values) if values else state
            if isinstance(of, Add):
                return jax.tree.leaves(increment_of(of, i, entries))
            return [jnp.asarray(f, float) for f in jax.tree.leaves(of.factors(i, entries[of.target]))]

        slots = ()
        if isinstance(operation, Multiply):
            slots = tuple(range(len(slot_leaf), len(slot_leaf) + len(target)))
            slot_leaf += target
        operations.append(Operation(target, tracer.function(run, [] if slots else leaves), slots))
    return (
        Program(
            tuple(operations),
            tuple(leaf_names(tree)),
            tuple(jax.typeof(v) for v in leaves),
            words,
            tuple(slot_leaf),
            num_steps,
            jnp.result_type(float) == jnp.float64,
        ),
        tracer.consts,
        tracer.theta,
    )


class _Tracer:
    """Traces functions of (theta, i, state), and gathers what they close over, each value once."""

    def __init__(self, theta: list[Any], data: Sequence[Any]):
        self.num_given, self.theta, self.consts = len(theta), theta, list(data)
        self.seen: dict[int, tuple[bool, int]] = {id(value): (False, n) for n, value in enumerate(data)}

    def function(self, run: Callable[..., list[Any]], state: Sequence[Any]) -> Function:
        given = self.theta[: self.num_given]
        closed = jax.make_jaxpr(lambda theta, values, i: run(theta, i, values))(given, list(state), jnp.int32(0))
        jaxpr, consts = open_jaxpr(closed)
        sources = [*(self.place(c) for c in consts), *((True, n) for n in range(self.num_given))]
        count = len(consts)

        def lifted(*values: Any) -> list[Any]:
            n = count + self.num_given
            return eval_jaxpr(jaxpr, values[:count], *values[count:n], *values[n + 1 :], values[n])

        avals = [*(v.aval for v in jaxpr.constvars), *(v.aval for v in jaxpr.invars)]
        avals = [*avals[: count + self.num_given], avals[-1], *avals[count + self.num_given : -1]]
        whole, none = open_jaxpr(jax.make_jaxpr(lifted)(*avals))
        assert not none
        return Function(whole, tuple(sources))

    def place(self, value: Any) -> tuple[bool, int]:
        if id(value) not in self.seen:
            traced = isinstance(value, Tracer)
            into = self.theta if traced else self.consts
            self.seen[id(value)] = (traced, len(into))
            into.append(value)
        return self.seen[id(value)]


def _check_state(state: Any) -> None:
    if not isinstance(state, dict):
        raise DerivativeError(f"a reversible update works on a dict of named entries; found a {type(state).__name__} as its state.")
    for leaf, name in zip(jax.tree.leaves(state), leaf_names(jax.tree.structure(state)), strict=True):
        if jnp.result_type(leaf) not in (jnp.float32, jnp.float64, jnp.float16, jnp.bfloat16):
            raise DerivativeError(
                f"the state's {name} is {jax.typeof(leaf).str_short()}; a reversible update works on real floating point numbers. Let "
                'increments close over what does not change, and use the strategy "tree" for a state with other entries.'
            )


def _words(operation: Multiply, state: Any, num_steps: int) -> list[int]:
    """Words for each leaf of the operation's entry; checks its factors if they are known."""
    entry = entry_of(state, operation.target)
    made = jax.eval_shape(lambda: operation.factors(jnp.int32(0), entry))
    names = [f"[{operation.target!r}]{'' if name == 'the value' else name}" for name in leaf_names(jax.tree.structure(entry))]
    for f, name in zip(jax.tree.leaves(made), names, strict=True):
        if f.shape != ():
            raise DerivativeError(
                f"Multiply({operation.target!r}): the factor of {name} has the shape {f.shape}; expected one number for each leaf. A "
                "factor for each step is a function of the step: factor=lambda i: factors[i]."
            )
    known = _known_factors(operation, entry, num_steps)
    if known is not None:
        _check_factors(operation, known, names)
        return words_for(known)
    if operation.at_least is None:
        raise DerivativeError(
            f"Multiply({operation.target!r}): the factor is traced, so the size of the store is not known. Give a lower bound, as "
            "at_least=0.5."
        )
    if not 0 < operation.at_least <= 1:
        raise DerivativeError(f"Multiply({operation.target!r}): at_least is {operation.at_least}, a number in (0, 1] expected.")
    return [words_within(operation.at_least, num_steps)] * len(names)


def _known_factors(operation: Multiply, entry: Any, num_steps: int) -> np.ndarray | None:
    """The factors, (step, leaf), if nothing in them is traced."""
    try:
        with jax.ensure_compile_time_eval():
            rows = jax.vmap(lambda i: jnp.stack([jnp.asarray(f, float) for f in jax.tree.leaves(operation.factors(i, entry))]))
            made = rows(jnp.arange(num_steps, dtype=jnp.int32))
        return None if isinstance(made, Tracer) else np.asarray(made)
    except jax.errors.ConcretizationTypeError:
        return None


def _check_factors(operation: Multiply, factors: np.ndarray, names: Sequence[str]) -> None:
    least = operation.at_least or 0.0
    bad = ~((factors > 0) & (factors <= 1) & (factors >= least))
    if bad.any():
        step, leaf = np.argwhere(bad)[0]
        expected = "a number in (0, 1] expected" if not least else f"a number from at_least={least} to 1 expected"
        raise DerivativeError(
            f"Multiply({operation.target!r}): the factor of {names[leaf]} at step {step} is {factors[step, leaf]:g}, {expected}. The store "
            "holds log2(1/factor) bits for each number and step; a factor of 0 would forget all."
        )
