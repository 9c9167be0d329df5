"""Which rows of a table count, and how often: masks, powers of likelihoods, and numbers that are not finite."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms import ModelError
from ...transforms.affine.host_design import HostDesign, on_host
from ...transforms.jax_compat import Var
from ..spec import Spec
from .equations import ModelEquations
from .records import Rows

__all__ = ["powers_of", "usable", "used_rows"]


def powers_of(model: ModelEquations, spec: Spec, rows: tuple[int, ...], data: Sequence[Any], where: str) -> jax.Array | None:
    """What `handlers.scale` multiplies each row's log likelihood by, (obs,); None if nothing does.

    Raises:
        ModelError: it is latent, negative or not finite.
    """
    if spec.scale is None:
        return None
    scale = spec.scale
    if isinstance(scale, str):
        atom = model.operands[-1]
        if model.is_latent(atom):
            raise ModelError(
                f"{where} is scaled by a latent variable (`handlers.scale`), so that its rows have no likelihood of their own. Expected "
                "numbers or data: survey weights, or the inverse of a temperature."
            )
        (scale,) = model.values([atom], data)
    scale = np.asarray(scale, np.dtype(jnp.result_type(float)))
    scale = np.broadcast_to(scale.reshape(scale.shape + (1,) * spec.event_dim), rows).reshape(-1)
    bad = np.flatnonzero(~(np.isfinite(scale) & (scale >= 0)))
    if bad.size:
        raise ModelError(
            f"{where} is scaled by {scale[bad[0]]} in row {bad[0]} ({bad.size} of {scale.size} rows); `handlers.scale` raises a row's "
            "likelihood to that power, which must be finite and at least 0."
        )
    return jnp.asarray(scale)


def used_rows(
    model: ModelEquations, masks: Any, powers: jax.Array | None, rows: tuple[int, ...], data: Sequence[Any], where: str
) -> np.ndarray | None:
    """The numbers of the rows that no mask hides and that count at all; None if nothing is hidden."""
    used = np.ones(rows, bool) if powers is None else np.asarray(powers).reshape(rows) > 0
    for mask, event_dim in masks:  # a mask outside of `to_event` has no axes for the event's
        if isinstance(mask, Var) and model.is_latent(mask):
            raise ModelError(f"{where} is masked by a value that depends on a latent variable; expected a mask made of data.")
        (found,) = model.values([mask], data) if hasattr(mask, "aval") else (mask,)
        found = np.asarray(found, bool)
        used &= np.broadcast_to(found.reshape(found.shape + (1,) * event_dim), rows)
    return None if used.all() else np.flatnonzero(used.reshape(-1))


def usable(table: Rows, used: np.ndarray | None, where: str) -> Rows:
    """The rows in use, every number of which is finite."""
    for name, good in _finite(table).items():
        if bool(good.all()):
            continue
        bad = np.flatnonzero(~np.asarray(good))
        bad = bad if used is None else np.intersect1d(bad, used)
        if bad.size:
            shown = ", ".join(map(str, bad[:5])) + (", ..." if bad.size > 5 else "")
            raise ModelError(
                f"{where}: {name} is NaN or infinite in row{'s' if bad.size > 1 else ''} {shown} ({bad.size} of {good.size}). Drop these "
                "rows from the data, or mask them with `numpyro.handlers.mask`."
            )
    if used is None:
        return table
    return jax.tree.map(lambda x: x.take(used) if isinstance(x, HostDesign) else x[used], table, is_leaf=on_host)


def _finite(table: Rows) -> dict[str, Any]:
    """For each part of the table, which rows are finite, (obs,)."""
    parts = {"the design matrix": table.design, "the offset": table.offset, **{f"{n!r}": v for n, v in table.params.items()}}
    here = _finite_rows({n: x for n, x in parts.items() if not on_host(x)})
    return {n: x.finite() if on_host(x) else here[n] for n, x in parts.items()}


@jax.jit
def _finite_rows(parts: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {n: jnp.isfinite(x).reshape(x.shape[0], -1).all(1) for n, x in parts.items()}
