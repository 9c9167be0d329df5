"""Functions of rows, evaluated over all of them a tile at a time, so that what they need on the way is small.

Rows are pytrees whose leaves have the axis of rows first; a leaf may be a `HostDesign`, whose rows come from host memory.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...ppl.factors import block_of, on_host

__all__ = ["in_tiles", "sum_tiles"]


def _block(f: Callable, rows: Any, first: Any, size: int) -> Any:
    return f(*jax.tree.map(lambda x: block_of(x, first, size), rows, is_leaf=on_host))


def _split(rows: Any, tile: int) -> tuple[int, int]:
    """The number of whole tiles, and the rows that are left over."""
    return divmod(jax.tree.leaves(rows, is_leaf=on_host)[0].shape[0], tile)


def in_tiles(f: Callable, *rows: Any, tile: int = 4096) -> Any:
    """f(*rows), where f broadcasts over the axis of rows, `tile` rows at a time."""
    whole, rest = _split(rows, tile)
    if not whole:
        return _block(f, rows, 0, rest)
    done = lax.map(lambda k: _block(f, rows, k * tile, tile), jnp.arange(whole))
    done = jax.tree.map(lambda x: x.reshape(whole * tile, *x.shape[2:]), done)
    if not rest:
        return done
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), done, _block(f, rows, whole * tile, rest))


def sum_tiles(f: Callable, *rows: Any, tile: int = 8192) -> Any:
    """The sum of f(*some of the rows) over tiles."""
    whole, rest = _split(rows, tile)
    if rest:
        total = _block(f, rows, whole * tile, rest)
    else:
        total = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(partial(_block, f, rows, 0, tile)))
    if not whole:
        return total
    return lax.fori_loop(0, whole, lambda k, sum: jax.tree.map(jnp.add, sum, _block(f, rows, k * tile, tile)), total)
