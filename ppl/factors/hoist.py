"""Latent scalars that multiply rows are carried over to the coefficients while a model is laid flat.

    tau * (X @ z), (tau * X) @ z  ->  X @ (tau * z)          mu + tau * z[group]  ->  mu + (tau * z)[group]

As they are written, the left-hand sides are products of two latent rows. A scalar may pass any linear equation, s M v = M (s v), and is
moved down to where no row has been made yet.
"""

from typing import Any

import jax.numpy as jnp
from jax import lax

from ...transforms.affine.rules import linear_slots
from ...transforms.jax_compat import JaxprEqn, bind
from ..primitives import has_sites

__all__ = ["Hoist"]


class Hoist:
    """One pass over a model; `num_rows` elements make a row axis. Values are told apart by identity, so they are all kept."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows
        self.made: dict[int, tuple[Any, JaxprEqn | None, list[Any]]] = {}  # of a latent value: itself, and what made it

    def __call__(self, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
        """The results of one equation, bound in the trace in progress."""
        if eqn.primitive.name in ("mul", "dot_general") and all(self._latent(x) for x in operands) and self._rows(eqn.outvars[0].aval):
            for i in (0, 1):
                found = self._scalar_times_data(operands[i])
                if found is not None and (found[1] is not None or eqn.primitive.name == "mul"):
                    scalar, data = found
                    rest = operands[1 - i]
                    if data is not None:
                        rest = self._bind(eqn, [data, rest] if i == 0 else [rest, data])[0]
                    return [self._scaled(scalar, rest)]
        return self._bind(eqn, operands)

    def _bind(self, eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
        outs = bind(eqn, operands)
        if has_sites(eqn) or any(self._latent(x) for x in operands):
            for out in outs:
                self.made[id(out)] = (out, eqn, operands)
        return outs

    def _latent(self, x: Any) -> bool:
        return id(x) in self.made

    def _rows(self, like: Any) -> bool:
        return like.size >= self.num_rows > 1

    def _scalar_times_data(self, x: Any) -> tuple[Any, Any] | None:
        """(s, D) of a latent value s D with a latent scalar s and data D, which is None for 1; None if it is no such product."""
        if jnp.size(x) == 1:
            return jnp.reshape(x, ()), None
        _, eqn, operands = self.made[id(x)]
        if eqn is None:
            return None
        name = eqn.primitive.name
        if name in ("broadcast_in_dim", "reshape", "convert_element_type", "transpose", "neg"):
            found = self._scalar_times_data(operands[0])
            if found is None or (name == "neg" and found[1] is None):
                return None
            scalar, data = found
            return scalar, None if data is None else bind(eqn, [data])[0]
        if name == "mul" and sum(self._latent(y) for y in operands) == 1:
            latent, other = operands if self._latent(operands[0]) else operands[::-1]
            found = self._scalar_times_data(latent)
            if found is not None and found[1] is None:
                return found[0], jnp.broadcast_to(other, jnp.shape(x))
        return None

    def _scaled(self, scalar: Any, x: Any) -> Any:
        """scalar * x, multiplied below the equations that make rows of x."""
        _, eqn, operands = self.made.get(id(x), (x, None, []))
        if eqn is not None and self._rows(x) and not has_sites(eqn) and eqn.primitive.name not in ("scan", "while", "cond"):
            slots = linear_slots(eqn, [self._latent(y) for y in operands])
            if not isinstance(slots, str):
                scaled = [self._scaled(scalar, y) if i in slots else y for i, y in enumerate(operands)]
                if eqn.primitive.name in ("add", "sub"):  # where a number may stand for an array
                    scaled = [jnp.broadcast_to(y, jnp.shape(x)) if jnp.ndim(y) == 0 else y for y in scaled]
                return self._bind(eqn, scaled)[0]
        product = lax.mul(jnp.broadcast_to(scalar.astype(jnp.result_type(x)), jnp.shape(x)), jnp.asarray(x))
        self.made[id(product)] = (product, None, [])
        return product
