"""The density as the sampler sees it: three traced programs on one vector, and the data they are given.

The log density is traced once. Its jaxpr is both what is compiled and, by its structure, the name under which the compiled program
is found again; so a fresh model object on new data of the same shapes finds it too. Constants that tracing lifted out of the
model become arguments like the data: no number of the user's is baked into a compiled program.
"""

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..transforms.structure import structure
from .gradients import value_and_grad
from .integrator import ValueAndGrad
from .layout import Layout

__all__ = ["Data", "Target", "trace_target"]


class Data(NamedTuple):
    """Every array that the traced programs need besides the position; an argument of the compiled ones.

    Attributes:
        leaves: the leaves of the log density.
        constants: for each traced program, what tracing lifted out of it.
    """

    leaves: tuple[jax.Array, ...]
    constants: tuple[tuple[jax.Array, ...], ...]


class Target(NamedTuple):
    """The traced programs.

    Attributes:
        layout: of the position vector.
        names: names of the constrained and deterministic values, in program order.
        shapes: their shapes and dtypes, in the same order.
        programs: closed jaxprs of log density with gradient, of constraining, and of drawing a starting point.
        data: what they are given.
    """

    layout: Layout
    names: tuple[str, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    programs: tuple[Any, Any, Any]
    data: Data

    @property
    def key(self) -> Hashable:
        """Equal for two targets that need the same compiled program."""
        types = tuple((leaf.shape, str(leaf.dtype), _weak(leaf)) for leaf in jax.tree.leaves(self.data))
        return self.layout, self.names, tuple(structure(program) for program in self.programs), types

    def value_and_grad(self, data: Data) -> ValueAndGrad:
        """Position (dim,) -> (log density (), gradient (dim,))."""
        return lambda position: tuple(self._run(0, data, position))

    def constrain(self, data: Data, position: jax.Array) -> tuple[jax.Array, ...]:
        """Position (dim,) -> constrained values and deterministic values, in the order of `names`."""
        return tuple(self._run(1, data, position))

    def initial(self, data: Data, words: jax.Array) -> jax.Array:
        """Key words, uint32 (2,) -> a starting position (dim,)."""
        (position,) = self._run(2, data, words)
        return position

    def _run(self, which, data, argument):
        program = self.programs[which]
        return jax.core.eval_jaxpr(program.jaxpr, data.constants[which], argument, *data.leaves)


def trace_target(density, strategy: Hashable) -> Target:
    """Traces a log density and its companions on raveled positions.

    Args:
        density: a `LogDensity`; its leaves become the data.
        strategy: where chains start; handed to `density.initial` unseen.
    """
    leaves, treedef = jax.tree.flatten(density)
    leaves = jax.device_put(leaves)
    layout = Layout.of(density.positions)
    dtype = np.dtype(layout.dtype)
    names: list[str] = []

    def value(position, *leaves):
        density = jax.tree.unflatten(treedef, leaves)
        return jnp.asarray(density(layout.unravel(position))).astype(dtype)

    def constrain(position, *leaves):
        values = jax.tree.unflatten(treedef, leaves).constrain(layout.unravel(position))
        names[:] = values  # a dict would come back sorted, the program's order is wanted
        return tuple(values.values())

    def initial(words, *leaves):
        key = jax.random.wrap_key_data(words, impl="threefry2x32")
        return layout.ravel(jax.tree.unflatten(treedef, leaves).init(key, strategy))

    position = jax.ShapeDtypeStruct((layout.dim,), dtype)
    words = jax.ShapeDtypeStruct((2,), np.uint32)
    gradient_program = jax.make_jaxpr(value_and_grad(value))(position, *leaves)
    constrain_program, shapes = jax.make_jaxpr(constrain, return_shape=True)(position, *leaves)
    initial_program = jax.make_jaxpr(initial)(words, *leaves)
    programs = (gradient_program, constrain_program, initial_program)
    constants = tuple(tuple(jax.device_put(program.consts)) for program in programs)
    return Target(layout, tuple(names), tuple(shapes), programs, Data(tuple(leaves), constants))


def _weak(leaf) -> bool:
    return bool(getattr(leaf, "weak_type", False))
