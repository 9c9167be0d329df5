"""What kernels ask of a chain's vector as a whole, wherever its coordinates lie: sums over them, random numbers for them, one of them.

Where sites are split over devices (`Layout.parts`) a sum over the coordinates is one over those that every device has, and one over each
device's own, met over the devices. Random numbers are those of a coordinate's number in the vector of all, so that they do not
depend on the mesh. Without a layout, or where no site is split, each of these is the plain operation.

To be called where the mesh's axes have names: inside of `shard_map`.
"""

import math
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ...sharding.execute import shard_index
from ...transforms.errors import SamplerError
from ...transforms.streams import Stream
from .layout import Layout

__all__ = ["Per", "count", "dots", "drawn", "every", "moved", "numbers", "taken"]

_MAX_NUMBERS = 2**24  # of one purpose, see `transforms.streams`


class Per(StrEnum):
    """How often devices meet for something: the scopes by which a plan knows the collectives of a program."""

    GRADIENT = "per gradient"  # of log densities, for kernels without gradients
    TURN_CHECK = "per turn check"
    COORDINATE = "per coordinate"
    TRANSITION = "per transition"
    START = "per start tried"
    CALL = "per call"  # of the device, some ten a second
    CHUNK = "per block of draws"

    def __repr__(self) -> str:
        return repr(self.value)  # keys of what a plan prints


def dots(layout: Layout | None, *pairs: tuple[jax.Array, jax.Array], per: Per = Per.TRANSITION) -> list[jax.Array]:
    """The inner product of each pair of vectors, (dim,), shape () each; `per` says how often."""
    if layout is None or not layout.parts:
        return [jnp.vdot(a, b) for a, b in pairs]
    rest = layout.parts[0].start
    total = jnp.stack([jnp.vdot(a[:rest], b[:rest]) for a, b in pairs])
    for axes, start, stop in layout.parts:
        part = jnp.stack([jnp.vdot(a[start:stop], b[start:stop]) for a, b in pairs])
        with jax.named_scope(per):
            total = total + lax.psum(part, axes)
    return list(total)


def every(layout: Layout | None, flags: jax.Array) -> jax.Array:
    """Whether all flags, bool (dim,), are true, asked of a start that is tried; bool ()."""
    if layout is None or not layout.parts or not flags.size:
        return flags.all()
    ok = flags[: layout.parts[0].start].all()
    for axes, start, stop in layout.parts:
        with jax.named_scope(Per.START):
            ok = ok & (lax.psum((~flags[start:stop]).any().astype(jnp.int32), axes) == 0)
    return ok


def drawn(layout: Layout | None, draw: Callable[..., jax.Array], stream: Stream, purpose: int, position: Any) -> jax.Array:
    """Random numbers, (dim,), one for each coordinate of a position.

    Args:
        layout: of the position.
        draw: `streams.normal` or `streams.uniform`.
        stream, purpose: as there.
        position: its shape and dtype count.
    """
    if layout is None or not layout.parts:
        return draw(stream, purpose, position.shape, dtype=position.dtype)
    if layout.whole.dim > _MAX_NUMBERS:
        raise SamplerError(
            f"the model has {layout.whole.dim} unconstrained coordinates; at most {_MAX_NUMBERS} random numbers are there for one purpose."
        )
    return draw(stream, purpose, position.shape, numbers(layout), position.dtype)


def numbers(layout: Layout) -> jax.Array:
    """The number that each coordinate of a device's vector has in the vector of all of them, int32 (dim,)."""
    found = []
    for place in layout.places():
        number = jnp.full(place.local_shape, place.first, jnp.int32)
        for dim, stride in enumerate(_strides(place.shape)):
            own = lax.broadcasted_iota(jnp.int32, place.local_shape, dim)
            number = number + stride * (own + _first_of(layout, place, dim))
        found.append(number.reshape(-1))
    return jnp.concatenate(found) if found else jnp.zeros(0, jnp.int32)


def count(layout: Layout | None, position: Any) -> int:
    """How many coordinates there are in all."""
    return position.size if layout is None or not layout.parts else layout.whole.dim


def taken(layout: Layout | None, number: Any, vectors: Sequence[jax.Array]) -> list[jax.Array]:
    """The coordinate of a number, int32 (), of each of some vectors; shape () each, the same on all devices."""
    if layout is None or not layout.parts:
        return [vector[number] for vector in vectors]
    index = _index(layout, number)
    rest = layout.parts[0].start
    own = jnp.stack([vector.at[index].get(mode="fill", fill_value=0) for vector in vectors])
    total = jnp.where(index < rest, own, 0)
    for axes, start, stop in layout.parts:
        with jax.named_scope(Per.COORDINATE):
            total = total + lax.psum(jnp.where((index >= start) & (index < stop), own, 0), axes)
    return list(total)


def moved(layout: Layout | None, vector: jax.Array, number: Any, value: jax.Array) -> jax.Array:
    """The vector with another value for the coordinate of a number."""
    if layout is None or not layout.parts:
        return vector.at[number].set(value)
    index = _index(layout, number)
    return vector.at[index].set(value, mode="drop")


def _index(layout: Layout, number: Any) -> jax.Array:
    """Where a device has the coordinate of a number, int32 (); behind the end of its vector if it has it not."""
    index = jnp.int32(layout.dim)
    for place in layout.places():
        rest = number - place.first
        mine, local = (rest >= 0) & (rest < math.prod(place.shape)), jnp.int32(place.start)
        for d, (stride, own) in enumerate(zip(_strides(place.shape), _strides(place.local_shape), strict=True)):
            along, rest = rest // stride - _first_of(layout, place, d), rest % stride
            mine, local = mine & (along >= 0) & (along < place.local_shape[d]), local + own * along
        index = jnp.where(mine, local, index)
    return index


def _first_of(layout: Layout, place: Any, dim: int) -> Any:
    """The first index along a dimension of a site that a device has."""
    return shard_index(place.home[dim] if place.home else (), dict(layout.mesh)) * place.local_shape[dim]


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[dim + 1 :]) for dim in range(len(shape))]
