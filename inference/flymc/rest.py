"""The rest of a model beside its tall likelihood: log prior, coefficients and shared parameters, as a traced program.

Two models whose programs are alike have equal `Rest`s, so that a compiled sampler is found again. Traced in the run's float type, as
the user's own code always is, whatever the precision around it.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr

from ...ppl.factors import Factor
from ...transforms.structure import structure

__all__ = ["Rest"]


@dataclass(frozen=True)
class Rest:
    """(data, constants, position) -> log prior, coefficients, shared parameters; equal by structure.

    Attributes:
        key: the structure. names: of the shared parameters. affine: whether the coefficients are left out, because a matrix gives them.
        dtype: the float type of the program. shape: of the coefficients.
    """

    key: Hashable
    names: tuple[str, ...]
    affine: bool
    dtype: str
    shape: tuple[int, ...]
    jaxpr: Any = field(compare=False, repr=False)

    @classmethod
    def of(cls, factor: Factor, dim: int) -> tuple["Rest", list[Any]]:
        """The program, on positions of `dim` numbers, and its constants."""
        affine = factor.coefficient_matrix is not None
        position = jax.ShapeDtypeStruct((dim,), jnp.result_type(float))
        names = tuple(jax.eval_shape(factor.shared, position))

        def program(position, *data):
            shared = factor.shared(position)
            coefficients = () if affine else (factor.coefficients(position),)
            return factor.log_prior(data, position), *coefficients, *(shared[name] for name in names)

        closed = jax.make_jaxpr(program)(position, *factor.data)
        key = structure(closed), names, affine
        shape = tuple(jax.eval_shape(factor.coefficients, position).shape)
        return cls(key, names, affine, np.dtype(position.dtype).name, shape, closed.jaxpr), list(closed.consts)

    def __call__(self, data: Any, constants: Any, position: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Float64 from a position (dim,): log prior (), coefficients or None, shared parameters."""
        out = eval_jaxpr(self.jaxpr, constants, position.astype(self.dtype), *data)
        log_prior, *others = [jnp.asarray(x).astype(jnp.float64) for x in out]
        coefficients = None if self.affine else others.pop(0)
        return log_prior, coefficients, dict(zip(self.names, others, strict=True))
