"""From a position by site to one vector per chain, and back. Nothing else knows how the vector is laid out.

Where sites are split over the devices of a mesh, each device has a vector of its own: first the sites that every device has whole, then
its shards of the others, those that are split over the same axes side by side,

    [whole sites | shards over axes A | shards over axes B | ...].

`coordinates` has the sums over such a vector.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["Layout", "Part", "Place", "float_type"]

Home = tuple[tuple[str, ...], ...]
"""For each dimension of a site the mesh axes over which it is split, major to minor."""


class Part(NamedTuple):
    """The stretch of a device's vector that holds its shards of the sites that are split over some axes.

    Attributes:
        axes: of the mesh.
        start, stop: in the vector.
    """

    axes: tuple[str, ...]
    start: int
    stop: int


class Place(NamedTuple):
    """Where a site stands.

    Attributes:
        name: of the site.
        shape, local_shape: of all of it, and of what one device has.
        dtype: name of its type.
        home: over which axes it is split; () if it is whole.
        first: its first coordinate in the vector of all of it, in program order.
        start, stop: in the vector of one device.
    """

    name: str
    shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    dtype: str
    home: Home
    first: int
    start: int
    stop: int


class Layout(NamedTuple):
    """The order, shapes and dtypes of the unconstrained sites in the raveled vector.

    Attributes:
        sites: ((name, shape, dtype name), ...) in program order.
        dtype: name of the vector's float type.
        homes: ((name, home), ...) of the sites that are split over a mesh.
        mesh: ((axis, size), ...).
    """

    sites: tuple[tuple[str, tuple[int, ...], str], ...]
    dtype: str
    homes: tuple[tuple[str, Home], ...] = ()
    mesh: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, positions: Mapping[str, jax.ShapeDtypeStruct]) -> "Layout":
        """The layout of positions with these shapes, in the float type of the run."""
        sites = tuple((name, tuple(spec.shape), np.dtype(spec.dtype).name) for name, spec in positions.items())
        return cls(sites, float_type())

    def split(self, homes: Mapping[str, Home], mesh: Mapping[str, int]) -> "Layout":
        """The layout of one device's vector, where sites are split; those that no axis splits may be named too."""
        given = {name: homes.get(name, ()) for name, _, _ in self.sites}
        return self._replace(homes=tuple((name, home) for name, home in given.items() if any(home)), mesh=tuple(mesh.items()))

    @property
    def whole(self) -> "Layout":
        """The layout of the vector of all coordinates, in program order."""
        return self._replace(homes=(), mesh=())

    @property
    def dim(self) -> int:
        """Length of the vector, of one device where sites are split."""
        return sum(math.prod(place.local_shape) for place in self.places())

    @property
    def parts(self) -> tuple[Part, ...]:
        """The stretches of split sites; none if all sites are whole."""
        found: list[Part] = []
        for place in self.places():
            axes = _axes(place.home)
            if axes and found and found[-1].axes == axes:
                found[-1] = found[-1]._replace(stop=place.stop)
            elif axes:
                found.append(Part(axes, place.start, place.stop))
        return tuple(found)

    def places(self) -> list[Place]:
        """Where the sites stand, in the order of one device's vector."""
        homes, sizes = dict(self.homes), dict(self.mesh)
        first = dict(zip((name for name, _, _ in self.sites), _starts(math.prod(shape) for _, shape, _ in self.sites), strict=True))
        groups = list(dict.fromkeys([(), *(_axes(home) for home in homes.values())]))
        ordered = sorted(self.sites, key=lambda site: groups.index(_axes(homes.get(site[0], ()))))
        found, start = [], 0
        for name, shape, dtype in ordered:
            home = homes.get(name, ())
            local = tuple(n // math.prod(sizes[a] for a in axes) for n, axes in zip(shape, home, strict=True)) if home else shape
            stop = start + math.prod(local)
            found.append(Place(name, shape, local, dtype, home, first[name], start, stop))
            start = stop
        return found

    def ravel(self, position: Mapping[str, Any]) -> jax.Array:
        """One position by site, or a device's shards of it -> vector of shape (dim,)."""
        parts = [jnp.ravel(position[place.name]).astype(self.dtype) for place in self.places()]
        return jnp.concatenate(parts) if parts else jnp.zeros((0,), self.dtype)

    def unravel(self, vector: Any) -> dict[str, Any]:
        """Vector of shape (..., dim) -> arrays of shape (..., *site shape), by site in program order; works on NumPy arrays too."""
        found = {
            place.name: vector[..., place.start : place.stop].reshape(vector.shape[:-1] + place.local_shape).astype(place.dtype)
            for place in self.places()
        }
        return {name: found[name] for name, _, _ in self.sites}

    def cut(self, vector: Any) -> tuple[Any, ...]:
        """A device's vectors, (..., dim), in parts: the sites that it has whole, (..., their size), and each shard, (..., *local shape)."""
        split = [place for place in self.places() if place.home]
        rest = split[0].start if split else self.dim
        return vector[..., :rest], *(vector[..., p.start : p.stop].reshape(*vector.shape[:-1], *p.local_shape) for p in split)

    def join(self, parts: Any) -> jax.Array:
        """What `cut` took apart."""
        lead = parts[0].shape[:-1]
        return jnp.concatenate([parts[0], *(part.reshape(*lead, -1) for part in parts[1:])], axis=-1)

    def cut_whole(self, vector: np.ndarray) -> tuple[np.ndarray, ...]:
        """The same parts of vectors of all coordinates in program order, with whole sites in the place of shards."""
        by_site = self.whole.unravel(vector)
        split, lead = [place for place in self.places() if place.home], vector.shape[:-1]
        rest = [by_site[p.name].reshape(*lead, -1) for p in self.places() if not p.home]
        parts = np.concatenate(rest, -1) if rest else np.zeros((*lead, 0)), *(by_site[p.name] for p in split)
        return tuple(np.asarray(part, vector.dtype) for part in parts)

    def join_whole(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """What `cut_whole` took apart."""
        lead = parts[0].shape[:-1]
        vector = np.zeros((*lead, self.whole.dim), parts[0].dtype)
        shards = iter(parts[1:])
        for place in self.places():
            size = math.prod(place.shape)
            part = next(shards).reshape(*lead, size) if place.home else parts[0][..., place.start : place.stop]
            vector[..., place.first : place.first + size] = part
        return vector


def _axes(home: Home) -> tuple[str, ...]:
    """All axes over which a site is split, in an order that does not depend on its dimensions."""
    return tuple(sorted({axis for axes in home for axis in axes}))


def _starts(sizes: Any) -> list[int]:
    starts, start = [], 0
    for size in sizes:
        starts.append(start)
        start += size
    return starts


def float_type() -> str:
    """Name of the process's float type."""
    return np.dtype(jnp.result_type(float)).name
