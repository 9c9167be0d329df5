"""Random keys and bits. A batch of keys is split like any other array; the bits of one key are split by their counters.

JAX's Threefry numbers the entries of a draw in row-major order and encrypts the numbers (`jax_threefry_partitionable`, the default):

    (a, b) = threefry2x32(key, (high word, low word of the number));   a ^ b for up to 32 bits, a * 2**32 + b for 64.

So a shard can draw its own part from the numbers that its entries have in the whole, and the draws do not depend on the mesh. Other
generators give no such rule: their bits are drawn whole by every device.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...transforms.jax_compat import JaxprEqn, context_values
from ...transforms.streams import threefry
from ..factors import Factor, Local, Rule
from .build import along, apply, elements, group, leading, no_flops, operand_shapes, result_shapes, types

__all__ = ["DRAW_RULES", "counters"]

_THREEFRY_FLOPS = 118  # 20 rounds of 5, 5 keys of 3 added, 2 first ones, one to join the words


def _batch_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    """The dimensions of the batch of keys, which operands and results begin with."""
    return leading(eqn, min(len(shape) for shape in (*operand_shapes(eqn), *result_shapes(eqn))))


def _counts(eqn: JaxprEqn) -> bool:
    """Whether the bits are those of numbered entries; see `transforms/keys.py` for the generator written out."""
    generator = str(types(eqn.invars)[0].dtype)
    if any(size >= 2**32 for size in eqn.params["shape"]):
        return False
    if generator == "key<two>":
        return elements(eqn.params["shape"]) <= 2**32
    return generator == "key<fry>" and bool(dict(context_values(eqn.ctx))["threefry_partitionable"])


def _bits_factors(eqn: JaxprEqn) -> Sequence[Factor]:
    batch = len(operand_shapes(eqn)[0])
    own = enumerate(eqn.params["shape"], start=batch) if _counts(eqn) else ()
    return group([*_batch_factors(eqn), *(along(eqn, {}, {0: dim}, size, how="counter") for dim, size in own)])


def counters(shape: Sequence[int], local: Sequence[int], first: Sequence[Any]) -> tuple[Any, Any]:
    """The high and the low word of the row-major numbers, in an array of `shape`, of its part of shape `local` that starts at `first`.

    Each dimension is below 2**32. Sums and products of 64 bits are made of words, since 64-bit types may be off.
    """
    high = low = jnp.zeros(tuple(local), jnp.uint32)
    wide = elements(shape) > 2**32
    for dim, size in enumerate(shape):
        places = lax.broadcasted_iota(jnp.uint32, tuple(local), dim) + jnp.asarray(first[dim]).astype(jnp.uint32)
        product = low * np.uint32(size)
        if wide:
            high = high * np.uint32(size) + _high_product(low, size)
        low = product + places
        if wide:
            high = high + (low < places).astype(jnp.uint32)
    return high, low


def _high_product(a: Any, b: int) -> Any:
    """The high word of the product of two words."""
    half = np.uint32(16)
    low_half = np.uint32(0xFFFF)
    b_low, b_high = np.uint32(b & 0xFFFF), np.uint32(b >> 16)
    a_low, a_high = a & low_half, a >> half
    first = a_low * b_low
    second = a_high * b_low + (first >> half)
    third = a_low * b_high + (second & low_half)
    return a_high * b_high + (second >> half) + (third >> half)


def _run_bits(eqn: JaxprEqn, operands: Sequence[Any], local: Local) -> list[Any]:
    (key,), batch = operands, len(operand_shapes(eqn)[0])
    own = tuple(local.results[0])[batch:]
    firsts = {factor.results[0]: local.index(axes) for factor, axes in local.shards if factor.how == "counter"}
    if not firsts:
        return apply(eqn, operands)
    words = jax.random.key_data(key)
    starts = [jnp.asarray(firsts.get(batch + dim, 0)).astype(jnp.uint32) * np.uint32(size) for dim, size in enumerate(own)]
    high, low = (lax.broadcast(x, tuple(local.results[0])[:batch]) for x in counters(eqn.params["shape"], own, starts))
    each_key = [lax.expand_dims(words[..., n], range(batch, batch + len(own))) for n in (0, 1)]
    words = threefry(each_key[0], each_key[1], high, low)
    return [_joined(words[0], words[1], eqn.params["bit_width"])]


def _joined(high: Any, low: Any, bits: int) -> Any:
    if bits == 64:
        return (high.astype(jnp.uint64) << np.uint64(32)) | low.astype(jnp.uint64)
    return (high ^ low).astype({8: jnp.uint8, 16: jnp.uint16, 32: jnp.uint32}[bits])


def _draw_flops(eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[Any]) -> float:
    return float(_THREEFRY_FLOPS * elements(results[0]))


DRAW_RULES: dict[str, Rule] = {
    "random_bits": Rule(_bits_factors, _run_bits, _draw_flops),
    "random_gamma": Rule(_batch_factors),
    "random_split": Rule(_batch_factors, flops=_draw_flops),
    "random_unwrap": Rule(_batch_factors, flops=no_flops, free=True),
    "random_wrap": Rule(_batch_factors, flops=no_flops, free=True),
}
