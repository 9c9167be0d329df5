"""The density as the sampler sees it: a few traced programs on one vector, and the data they are given.

The log density is traced once. Its jaxpr is both what is compiled and, by its structure, the name under which the compiled program
is found again; so a fresh model object on new data of the same shapes finds it too. Constants that tracing lifted out of the
model become arguments like the data: no number of the user's is baked into a compiled program.
"""

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr

from ...ppl import InitStrategy
from ...ppl.compressed import SiteRows, compressed
from ...transforms import value_and_grad
from ...transforms.calls import nearest
from ...transforms.equations import needed_equations, variables_of
from ...transforms.errors import SamplerError
from ...transforms.jax_compat import ClosedJaxpr, assemble_jaxpr, open_jaxpr
from ...transforms.keys import random_key
from ...transforms.structure import structure
from .layout import Layout

__all__ = ["Data", "Target", "collected", "trace_target"]


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
        programs: closed jaxprs: what reads only the data; log density, with gradient if that was asked for, given that; constraining;
            drawing a starting point. All but constraining are empty if the density is not evaluated.
        data: what they are given.
        fixed: constrained starting values that the strategy brings, by site, each (chain, ...).
        rows: of sites whose rows were looked at for compression, what became of them.
    """

    layout: Layout
    names: tuple[str, ...]
    shapes: tuple[jax.ShapeDtypeStruct, ...]
    programs: tuple[Any, Any, Any, Any]
    data: Data
    fixed: dict[str, np.ndarray]
    rows: tuple[SiteRows, ...] = ()

    @property
    def key(self) -> Hashable:
        """Equal for two targets whose chains run the same programs."""
        return self.layout, self.names, tuple(structure(program, differentiated=False) for program in self.programs)

    def prepare(self, data: Data) -> tuple[jax.Array, ...]:
        """What the log density computes from the data alone."""
        return tuple(self._run(0, data, *data.leaves[: len(self.programs[0].in_avals)]))

    def value_and_grad(self, data: Data, prepared: tuple[jax.Array, ...], position: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Log density () and gradient, (dim,) or (0,), at a position (dim,), given what `prepare` returned."""
        log_density, gradient = self._run(1, data, position, *prepared)
        return log_density, gradient

    def constrain(self, data: Data, position: jax.Array) -> tuple[jax.Array, ...]:
        """Position (dim,) -> constrained values and deterministic values, in the order of `names`."""
        position = position.astype(self.programs[2].in_avals[0].dtype)  # chains may run in a wider type
        return tuple(self._run(2, data, position, *data.leaves))

    def initial(self, data: Data, words: jax.Array, fixed: dict[str, jax.Array]) -> jax.Array:
        """Key words, uint32 (2,), and the fixed values of one chain -> a starting position (dim,)."""
        (position,) = self._run(3, data, words, *jax.tree.leaves(fixed), *data.leaves)
        return position

    def _run(self, which, data, *arguments):
        return eval_jaxpr(self.programs[which].jaxpr, data.constants[which], *arguments)


def trace_target(
    density,
    strategy: InitStrategy,
    num_chains: int,
    uses_gradient: bool = True,
    evaluated: bool = True,
    collect: tuple[str, ...] | None = None,
    compress: bool = False,
) -> Target:
    """Traces a log density and its companions on raveled positions.

    Args:
        density: a `LogDensity`; its leaves become the data.
        strategy: where chains start; handed to `density.init` unseen.
        num_chains: chains that the strategy's own values must fit.
        uses_gradient: whether the gradient is computed; without, the model is never differentiated.
        evaluated: whether the density is; for a kernel that takes it apart and brings its own starts it need not be.
        collect: names of the values that are wanted of a draw; None for all.
        compress: whether the density is evaluated from less of the data, where that is the same.

    Raises:
        SamplerError: there is no value of a name in `collect`.
    """
    leaves, treedef = jax.tree.flatten(density)
    number, short = len(leaves), compressed(density) if compress and evaluated else None
    if short is not None:
        leaves = [*leaves, *short.arrays]
    layout = Layout.of(density.positions)
    dtype = np.dtype(layout.dtype)
    names: list[str] = []
    fixed = dict(sorted(strategy.fixed(density.program, num_chains).items()))

    def rebuild(leaves):
        return jax.tree.unflatten(treedef, leaves[:number])

    def prepare(*leaves):
        return tuple(short.prepare(leaves) if short else rebuild(leaves).prepare())

    def value(position, *prepared):
        return jnp.asarray((short or density).evaluate(prepared, layout.unravel(position))).astype(dtype)

    def value_alone(position, *prepared):
        return value(position, *prepared), position[:0]

    def constrain(position, *leaves):
        values = collected(rebuild(leaves).constrain(layout.unravel(position)), collect)
        names[:] = values  # a dict would come back sorted, the program's order is wanted
        return tuple(values.values())

    def initial(words, fixed, *leaves):
        return layout.ravel(rebuild(leaves).init(random_key(words), strategy, fixed))

    position = jax.ShapeDtypeStruct((layout.dim,), dtype)
    words = jax.ShapeDtypeStruct((2,), np.uint32)
    of_one_chain = {name: jax.ShapeDtypeStruct(value.shape[1:], value.dtype) for name, value in fixed.items()}
    constrain_program, shapes = jax.make_jaxpr(constrain, return_shape=True)(position, *leaves)
    if evaluated:
        prepare_program, prepared = jax.make_jaxpr(prepare, return_shape=True)(*leaves)
        evaluate = value_and_grad(value) if uses_gradient else value_alone
        density_program = jax.make_jaxpr(evaluate)(position, *prepared)
        initial_program = jax.make_jaxpr(initial)(words, of_one_chain, *leaves)
        others = [prepare_program, constrain_program, initial_program]
        if short is not None:
            others, leaves = _reading_less(others, leaves)
        programs = (others[0], density_program, others[1], others[2])
    else:
        nothing = jax.make_jaxpr(tuple)()
        (constrain_program,), leaves = _reading_less([constrain_program], leaves)
        programs = (nothing, nothing, constrain_program, nothing)
    constants = tuple(tuple(jax.device_put(program.consts)) for program in programs)
    data = Data(tuple(jax.device_put(leaves)), constants)
    return Target(layout, tuple(names), tuple(shapes), programs, data, fixed, short.rows if short else ())


def collected(values: dict[str, Any], collect: tuple[str, ...] | None) -> dict[str, Any]:
    """The values that are wanted of a draw, by name.

    Raises:
        SamplerError: there is no value of a name in `collect`.
    """
    if collect is None:
        return values
    for name in collect:
        if name not in values:
            like = nearest(name, values)
            hint = f"perhaps {like!r} is meant" if like else f"there are {', '.join(values)}"
            raise SamplerError(f"MCMC: collect has {name!r}, which is no latent or deterministic site of the model; {hint}.")
    return {name: value for name, value in values.items() if name in collect}


def _reading_less(programs: Sequence[Any], leaves: list[Any]) -> tuple[list[Any], list[Any]]:
    """Closed jaxprs whose last inputs are the leaves, without the leaves that none of them reads, and without equations that read them."""
    needed = [needed_equations(p.jaxpr.eqns, p.jaxpr.outvars) for p in programs]
    read = set().union(*(variables_of(eqns, p.jaxpr.outvars) for p, eqns in zip(programs, needed, strict=True)))
    number = len(leaves)
    inputs = [p.jaxpr.invars[len(p.jaxpr.invars) - number :] for p in programs]
    kept = [any(v in read for v in same) for same in zip(*inputs, strict=True)]

    def less(program: Any, eqns: Any) -> Any:
        jaxpr, constants = open_jaxpr(program)
        first = len(jaxpr.invars) - number
        invars = [*jaxpr.invars[:first], *(v for v, k in zip(jaxpr.invars[first:], kept, strict=True) if k)]
        return ClosedJaxpr(*assemble_jaxpr(jaxpr, dict(zip(jaxpr.constvars, constants, strict=True)), invars, jaxpr.outvars, eqns))

    return list(map(less, programs, needed)), [x for x, k in zip(leaves, kept, strict=True) if k]
