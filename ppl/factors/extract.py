"""From the cut and the proof to numbers: the design matrix, the coefficients as a function of the position, the rest of the density."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms import ModelError, affine_in, why_not_affine
from ...transforms.affine import Affine, GatherBlock
from ...transforms.affine.rules import aval
from ...transforms.equations import needed_equations, run_equations
from ...transforms.jax_compat import Var, open_jaxpr
from ..density import LogDensity
from ..interpreters import score_sites, total_of
from .cut import Cuts, Obstacle
from .elementwise import Placed, to_rows
from .equations import ModelEquations, size_of

__all__ = ["DENSE_LIMIT", "CoefficientMap", "Coefficients", "LatentValues", "data_of", "design_of", "prior_of", "prove_affine"]

DENSE_LIMIT = 2**28
"""Elements of a design matrix that is made from indices; one that the model itself holds may be larger."""


def unravel(density: LogDensity, vector: Any) -> dict[str, Any]:
    """Position vector (dim,) -> by site, in the order of `density.positions`."""
    position, start = {}, 0
    for name, struct in density.positions.items():
        stop = start + int(np.prod(struct.shape, dtype=int))
        position[name] = vector[start:stop].reshape(struct.shape).astype(struct.dtype)
        start = stop
    return position


def prove_affine(cuts: Cuts, atom: Any, reshape: Callable[[Any], Any], held: Sequence[Any], where: str) -> tuple[list[Var], Affine]:
    """(variables of the coefficients, proof) that a value, reshaped, is affine in a few coefficients with a matrix made of data.

    The one argument of the affine function that is held is the list of the data that it reads, `held`, which `data_of` makes, or their
    shapes.

    Raises:
        ModelError: there is no proof.
    """
    model = cuts.model
    found = cuts.of(atom)
    if isinstance(found, Obstacle):
        raise ModelError(f"{where}: the linear predictor is not affine in the latent variables: {found}.")
    variables, used = list(found), model.data_read([atom], found)

    def value_of(coefficients: list[Any], used_data: list[Any]) -> Any:
        everything: list[Any] = [None] * len(model.data)
        for i, x in zip(used, used_data, strict=True):
            everything[i] = x
        return reshape(model.values([atom], everything, given=dict(zip(variables, coefficients, strict=True)))[0])

    shapes = [jax.ShapeDtypeStruct(aval(v).shape, aval(v).dtype) for v in variables]
    answer = affine_in(value_of, shapes, held)
    if answer is None:
        raise ModelError(f"{where}: the linear predictor is {why_not_affine(value_of, shapes, held)}.")
    return variables, answer


def data_of(cuts: Cuts, atom: Any, data: Sequence[Any]) -> list[Any]:
    """The data that a value reads, in the model's order and precision."""
    found = cuts.of(atom)
    used = cuts.model.data_read([atom], found if isinstance(found, dict) else {})
    return [jnp.asarray(data[i], aval(cuts.model.data[i]).dtype) for i in used]


def design_of(
    cuts: Cuts, predictor: Placed, rows: Sequence[int], data: Sequence[Any], where: str
) -> tuple[list[Var], Callable[[Sequence[Any]], tuple[jax.Array, jax.Array]]]:
    """(variables of the coefficients, data -> (design (obs, d), offset (obs,))) of one predictor; the function can be jitted.

    Raises:
        ModelError: no proof that it is affine, or a design of indices that is too large.
    """
    held = jax.eval_shape(lambda: data_of(cuts, predictor.atom, data))
    variables, answer = prove_affine(cuts, predictor.atom, lambda value: to_rows(value, predictor.axes, rows), held, where)
    num_rows = int(np.prod(rows, dtype=np.int64))

    def extract(data: Sequence[Any]) -> tuple[jax.Array, jax.Array]:
        read = answer.at(data_of(cuts, predictor.atom, data))
        for block, v in zip(read.matrix, variables, strict=True):
            if isinstance(block, GatherBlock) and num_rows * size_of(v) > DENSE_LIMIT:
                raise ModelError(
                    f"{where}: the design matrix of the {size_of(v)} coefficients that rows choose by an index would have "
                    f"{num_rows} x {size_of(v)} elements, more than {DENSE_LIMIT}. Sparse designs are not supported yet: use fewer groups."
                )
        blocks = [block.dense().reshape(num_rows, size_of(v)) for block, v in zip(read.matrix, variables, strict=True)]
        return (blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, 1)), read.offset

    return variables, extract


@dataclass(frozen=True, eq=False)
class LatentValues:
    """Values that depend on latent sites, as a function of the position; `border` is what they read of the data alone."""

    density: LogDensity
    model: ModelEquations
    variables: tuple[Var, ...]
    border: tuple[Var, ...]

    @classmethod
    def of(cls, density: LogDensity, model: ModelEquations, variables: Sequence[Var]) -> "LatentValues":
        late = [e for e in needed_equations(model.equations, variables) if any(model.is_latent(v) for v in e.outvars)]
        border = dict.fromkeys(x for e in late for x in e.invars if isinstance(x, Var) and not model.is_latent(x))
        return cls(density, model, tuple(variables), tuple(border))

    def prepare(self, data: Sequence[Any]) -> list[Any]:
        """What is computed from the data alone."""
        return self.model.values(self.border, data)

    def __call__(self, position: Any, prepared: Sequence[Any]) -> list[Any]:
        """Position (dim,) -> values."""
        nothing = [None] * len(self.model.data)
        return self.model.values(self.variables, nothing, unravel(self.density, position), dict(zip(self.border, prepared, strict=True)))


class CoefficientMap(NamedTuple):
    """c, position (dim,) -> coefficients, and what is known of it: see `Factor`."""

    function: Callable[[Any], jax.Array]
    columns: np.ndarray | None
    matrix: jax.Array | None
    offset: jax.Array | None


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The coefficients as a function of the position: the elements of `values` in one vector, arranged."""

    values: LatentValues
    arrange: Callable[[Any], jax.Array] = lambda elements: elements

    def __call__(self, position: Any, prepared: Sequence[Any]) -> jax.Array:
        return self.arrange(jnp.concatenate([jnp.ravel(x) for x in self.values(position, prepared)]))

    def matrix(self, prepared: Sequence[Any]) -> tuple[jax.Array, jax.Array] | None:
        """(matrix, offset) of an affine map from the position to the ravelled coefficients; None if there is no proof of one."""
        start = jax.ShapeDtypeStruct((self.values.density.dim,), jnp.result_type(float))
        shapes = [jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in prepared]
        answer = affine_in(lambda u, prepared: self(u, prepared).reshape(-1), start, shapes)
        if answer is None:
            return None
        here = answer.at(list(prepared))
        return here.design(), here.offset

    def described(self, prepared: Sequence[Any], affine: tuple[jax.Array, jax.Array] | None) -> CoefficientMap:
        """The map, from what `matrix` has given."""
        prepared = list(prepared)

        def function(position: Any) -> jax.Array:
            return self(position, prepared)

        if affine is None:
            return CoefficientMap(function, None, None, None)
        matrix, offset = map(np.asarray, affine)
        plain = ((matrix != 0).sum(1) == 1).all() and (matrix.max(1, initial=0) == 1).all() and (offset == 0).all()
        shape = jax.eval_shape(function, jax.ShapeDtypeStruct((matrix.shape[1],), jnp.result_type(float))).shape
        return CoefficientMap(function, matrix.argmax(1).reshape(shape) if plain else None, *affine)


def prior_of(density: LogDensity, site: str) -> Callable[[Sequence[Any], Any], jax.Array]:
    """(data, position (dim,)) -> the log density without one observed site; equations that only the site needs are not run."""

    def total(data: Sequence[Any], position: Any) -> Any:
        scores = score_sites(density.program, data, unravel(density, position), without=site)
        return functools.reduce(jnp.add, [total_of(s) for s in scores.values()])

    start = jax.ShapeDtypeStruct((density.dim,), jnp.result_type(float))
    jaxpr, constants = open_jaxpr(jax.make_jaxpr(total)(density.data, start))
    needed = needed_equations(jaxpr.eqns, jaxpr.outvars)

    def log_prior(data: Sequence[Any], position: Any) -> jax.Array:
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *data, position], strict=True))
        return run_equations(needed, env, jaxpr.outvars)[0]

    return log_prior
