"""Short names for programs and data that are the same in every process: for what is stored and read again later.

The hash of a key made by `structure` is good in one process only: Python hashes text otherwise in every process, and functions by
their address. A digest is a hash of the key's content. Each part of a key is written as a tag, a length and that many bytes or parts,
so that different keys are different texts; what has no content but an identity, such as a function, is written by its name.
"""

import dataclasses
import enum
import functools
import hashlib
import re
from collections.abc import Hashable, Iterator
from typing import Any

import jax
import numpy as np
from jax.core import AbstractValue
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec, Sharding

from .errors import ProgramError

__all__ = ["array_digest", "digest"]

_BYTES = 16
_BLOCK = 2**20  # bytes of an array that are copied at a time
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def digest(key: Hashable) -> str:
    """A digest of a key made by `structure`, or of a tuple of such keys, strings, numbers and types.

    Two keys have equal digests if they are equal, in any process on the same versions of JAX; and, up to the chance of a collision
    (2**-64 among 2**32 keys), only then. Where a key holds the identity of an object, the digest has its name instead: functions,
    such as those of callbacks and custom derivative rules, enter by module and qualified name and not by what they do, and addresses
    that stand in an object's text are left out.

    Args:
        key: nested tuples of text, bytes, numbers, types, arrays and hashable parameters of equations.

    Returns:
        32 hexadecimal digits of BLAKE2b.
    """
    return _hash(_Writer().written(key)).hexdigest()


def array_digest(array: Any) -> str:
    """A digest of an array: of its dtype, shape and bytes, in C order.

    Two arrays have equal digests if they are equal bit for bit, NumPy's and JAX's alike, and up to the chance of a collision only
    then: 0.0 and -0.0 differ, and so do two kinds of NaN. A memory-mapped array is read through once, block by block.

    Args:
        array: a NumPy or JAX array, of any shape and strides. Random keys enter by their data and their kind.

    Returns:
        32 hexadecimal digits of BLAKE2b.

    Raises:
        ProgramError: it is no array, its elements are Python objects, or it is masked.
    """
    if isinstance(array, jax.Array) and jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        return digest(("keys", str(array.dtype), array_digest(jax.random.key_data(array))))
    if not isinstance(array, (np.ndarray, np.generic, jax.Array)) or isinstance(array, np.ma.MaskedArray):
        raise ProgramError(
            f"array_digest: found a {type(array).__name__}, expected a NumPy or JAX array. Write np.asarray(x); for a masked array "
            "take the digests of x.data and x.mask"
        )
    array = np.asarray(array)
    if array.dtype.hasobject:
        raise ProgramError(
            f"array_digest: the elements of an array of dtype {array.dtype} are Python objects, which have no bytes of their own. "
            "Write x.astype(float), or x.astype(str) for text"
        )
    hasher = _hash(_Writer().written(("array", array.dtype, array.shape)))
    for block in _blocks(array):
        hasher.update(block)
    return hasher.hexdigest()


def _hash(content: bytes) -> Any:
    return hashlib.blake2b(content, digest_size=_BYTES)


def _blocks(array: np.ndarray) -> Iterator[np.ndarray]:
    """The bytes of an array in C order; only what is not in that order is copied, `_BLOCK` at a time or an element."""
    if not array.nbytes:
        return
    if array.flags.c_contiguous or array.nbytes <= _BLOCK:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    elif len(array) == 1:
        yield from _blocks(array[0])
    else:
        step = max(1, _BLOCK * len(array) // array.nbytes)
        for start in range(0, len(array), step):
            yield from _blocks(array[start : start + step])


class _Writer:
    """Writes a key as bytes, from which it could be read again.

    A part that is met again is not written anew: text and numbers are known by their value, objects by identity, and kept alive.
    """

    def __init__(self):
        self._texts: dict[str, bytes] = {}
        self._numbers: dict[int, bytes] = {}
        self._objects: dict[int, tuple[Any, bytes]] = {}

    def written(self, value: Any) -> bytes:
        """Walks tuples without recursion (keys are as deep as programs are nested); the parts of a tuple come last one first."""
        texts, numbers, objects = self._texts, self._numbers, self._objects
        pieces: list[bytes] = []
        stack = [value]
        while stack:
            part = stack.pop()
            kind = type(part)
            if kind is tuple:
                pieces.append(b"(%d:" % len(part))
                stack.extend(part)
            elif kind is str:
                piece = texts.get(part)
                if piece is None:
                    piece = texts[part] = _piece(b"s", _ADDRESS.sub("", part).encode("utf-8", "surrogatepass"))
                pieces.append(piece)
            elif kind is int:
                piece = numbers.get(part)
                if piece is None:
                    piece = numbers[part] = b"i%d:" % part
                pieces.append(piece)
            else:
                known = objects.get(id(part))
                if known is None:
                    known = objects[id(part)] = part, self._object(part)
                pieces.append(known[1])
        return b"".join(pieces)

    def _object(self, value: Any) -> bytes:
        if isinstance(value, bytes):
            return _piece(b"b", value)
        if isinstance(value, (bool, float, complex, type(None))):
            return _piece(b"v", f"{type(value).__name__} {value!r}".encode())
        if isinstance(value, (set, frozenset)):
            return self._parts(b"{", sorted(map(self.written, value)))
        if isinstance(value, dict):
            return self._parts(b"[", sorted(self.written(item) for item in value.items()))
        name, parts = _contents(value)
        return self._parts(b"o", [self.written((_name_of(type(value)), name)), *(self.written(part) for part in parts)])

    @staticmethod
    def _parts(tag: bytes, parts: list[bytes]) -> bytes:
        return b"".join([b"%b%d:" % (tag, len(parts)), *parts])


def _piece(tag: bytes, content: bytes) -> bytes:
    return b"%b%d:%b" % (tag, len(content), content)


def _name_of(thing: Any) -> str:
    return f"{getattr(thing, '__module__', '')}.{thing.__qualname__}"


def _contents(value: Any) -> tuple[str, tuple[Any, ...]]:
    """A name and parts that say, beside its type, what an object is."""
    if hasattr(value, "structure_key") and not isinstance(value, type):
        return "key", (value.structure_key(),)
    if isinstance(value, (list, tuple)):
        return "items", tuple(value)
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        return "array", (array_digest(value),)
    if isinstance(value, enum.Enum):
        return "member", (value.name, value.value)
    if isinstance(value, functools.partial):
        return "partial", (value.func, value.args, value.keywords)
    if isinstance(value, jax.tree_util.PyTreeDef):
        return "tree", (value.node_data(), tuple(value.children()))
    if isinstance(value, AbstractValue):
        # the text has the axes of a sharding and not the mesh that they are of
        return str(value), tuple(getattr(value, name, None) for name in ("weak_type", "sharding", "layout"))
    if isinstance(value, (Mesh, AbstractMesh, PartitionSpec, Sharding, jax.Device)):
        return "place", _place(value)
    if hasattr(value, "__qualname__"):  # functions and classes
        return _name_of(value), (getattr(value, "__self__", None),) if hasattr(value, "__func__") else ()
    if dataclasses.is_dataclass(value):
        return "fields", tuple((field.name, getattr(value, field.name)) for field in dataclasses.fields(value) if field.compare)
    return repr(value), ()


def _place(place: Any) -> tuple[Any, ...]:
    if isinstance(place, Mesh):
        return place.axis_names, place.devices.shape, place.axis_types, tuple(place.devices.flat)
    if isinstance(place, AbstractMesh):
        return place.axis_names, place.axis_sizes, place.axis_types, repr(place)
    if isinstance(place, NamedSharding):
        return place.mesh, place.spec, place.memory_kind
    if isinstance(place, PartitionSpec):
        return place.partitions, place.unreduced, place.reduced, getattr(place, "unreduced_kind", None)
    if isinstance(place, Sharding):
        return place.device_set, place.memory_kind, repr(place)
    return place.platform, place.id
