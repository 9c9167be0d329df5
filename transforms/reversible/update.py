"""Updates that can be run backwards: a sequence of additions and multiplications of the entries of a state.

    state[target] <- state[target] + increment(i, the other entries)
    state[target] <- state[target] * factor(i),   0 < factor <= 1

An increment never sees its own target, so subtracting it undoes the addition, whatever it is computed by. This is all that SGD with
momentum needs, and leapfrog integrators, and reversible networks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..autodiff import defines_linearization
from ..errors import DerivativeError
from .numbers import DENOMINATOR

__all__ = ["Add", "Multiply", "Update", "by_leaf", "rational"]


@defines_linearization(lambda factor: jnp.clip(jnp.round(factor * DENOMINATOR), 1, DENOMINATOR) / DENOMINATOR)
def _rational(factor: Any) -> Any:
    return _rational.body(factor), lambda tangent: tangent


def rational(factor: Any) -> Any:
    """The factor that a reversible loop multiplies with: the nearest n / 2^16 with n from 1 to 2^16.

    Its derivative is that of the factor itself, the staircase left out. Use it where an update needs its factor elsewhere, as in
    v <- f v - (1 - f) g.
    """
    return _rational(jnp.asarray(factor, jnp.result_type(float, factor)))


def by_leaf(numbers: Any, tree: Any) -> Any:
    """One number for each leaf of a tree, from one for each leaf or branch."""
    return jax.tree.map(lambda number, branch: jax.tree.map(lambda _: number, branch), numbers, tree)


@dataclass(frozen=True)
class Add:
    """state[target] <- state[target] + increment(i, others).

    Attributes:
        target: an entry of the state, a dict.
        increment: (i, others) -> a pytree like the entry. others: the state without the entry. Values that it closes over may be
            differentiated.
    """

    target: str
    increment: Callable[[Any, dict[str, Any]], Any]


@dataclass(frozen=True)
class Multiply:
    """state[target] <- state[target] * rational(factor(i)).

    Attributes:
        target: an entry of the state.
        factor: in (0, 1]: a number, or (i) -> a number, or a pytree of numbers: one for each leaf of the entry, or for each branch.
        at_least: a lower bound of the factors, which sizes the store. Needed if they are traced.
    """

    target: str
    factor: Any
    at_least: float | None = None

    def factors(self, i: Any, entry: Any) -> Any:
        """One factor for each leaf of the entry: a pytree like it."""
        made = self.factor(i) if callable(self.factor) else self.factor
        try:
            return by_leaf(made, entry)
        except (ValueError, TypeError) as error:
            raise DerivativeError(
                f"Multiply({self.target!r}): the factor has the structure {jax.tree.structure(made)}; expected one number, or a number for "
                f"each leaf or branch of the entry, {jax.tree.structure(entry)}."
            ) from error


class Update:
    """A step of a reversible loop: operations on the entries of a state, in order.

    Called with (i, state) it computes the same step in floating point: what the strategies do that store carries.

    Args:
        operations: `Add` and `Multiply`, at least one.

    Raises:
        DerivativeError: an operation is neither.
    """

    def __init__(self, *operations: Add | Multiply):
        for operation in operations:
            if not isinstance(operation, (Add, Multiply)):
                raise DerivativeError(
                    f"Update takes Add and Multiply; found a {type(operation).__name__}. What is neither an addition to one entry of "
                    'the state, of what the others say, nor a product with a number cannot be run backwards exactly; use strategy="tree".'
                )
        if not operations:
            raise DerivativeError("Update takes at least one operation, Add or Multiply.")
        self.operations: Sequence[Add | Multiply] = operations

    def __call__(self, i: Any, state: dict[str, Any]) -> dict[str, Any]:
        state = dict(state)
        for operation in self.operations:
            entry = entry_of(state, operation.target)
            if isinstance(operation, Add):
                change = increment_of(operation, i, state)
                state[operation.target] = jax.tree.map(jnp.add, entry, change)
            else:
                factors = jax.tree.map(rational, operation.factors(i, entry))
                state[operation.target] = jax.tree.map(lambda x, f: x * f.astype(x.dtype), entry, factors)
        return state


def entry_of(state: Any, target: str) -> Any:
    """The entry that an operation changes."""
    if not isinstance(state, dict) or target not in state:
        found = f"the entries {sorted(state)}" if isinstance(state, dict) else f"a {type(state).__name__}"
        raise DerivativeError(f"the update changes the entry {target!r} of the state, a dict; found {found}.")
    return state[target]


class _Others(dict):
    """The state without the entry that an increment is added to."""

    def __init__(self, state: dict[str, Any], target: str):
        super().__init__({name: value for name, value in state.items() if name != target})
        self.target = target

    def __missing__(self, name: str) -> Any:
        if name == self.target:
            raise DerivativeError(
                f"the increment of {name!r} reads {name!r} itself, so that the update is not invertible: after the addition nobody "
                'knows what was read. Let it depend on other entries (as a velocity does), or use strategy="tree".'
            )
        raise DerivativeError(f"the increment of {self.target!r} reads the entry {name!r}; the state has {sorted(self)} besides.")


def increment_of(operation: Add, i: Any, state: dict[str, Any]) -> Any:
    """What an operation adds, checked against its entry."""
    entry = state[operation.target]
    change = operation.increment(i, _Others(state, operation.target))
    leaves, tree = jax.tree.flatten(change)
    if tree != jax.tree.structure(entry) or any(jnp.shape(a) != jnp.shape(b) for a, b in zip(leaves, jax.tree.leaves(entry), strict=True)):
        raise DerivativeError(
            f"the increment of {operation.target!r} is {jax.tree.map(lambda x: jax.typeof(x).str_short(), change)}, expected the structure "
            f"and shapes of the entry: {jax.tree.map(lambda x: jax.typeof(x).str_short(), entry)}."
        )
    return jax.tree.map(lambda a, b: jnp.asarray(a).astype(jnp.result_type(b)), change, entry)
