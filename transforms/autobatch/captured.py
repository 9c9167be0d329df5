"""What a program reads from outside of its arguments, as a fingerprint that changes when any of it does.

A function reads globals, variables of the function around it, defaults, and attributes of these; so do the functions and programs it calls.
All of it is compared at every call of an `autobatch`ed program: arrays of JAX, which cannot change, by identity; NumPy arrays by a
checksum; numbers and text by value; containers and objects by what they hold. Modules and functions of JAX, NumPy, Luciole and the
standard library are taken to stay as they are.
"""

import dis
import functools
import inspect
import sys
import zlib
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer

from .program import BatchProgram

__all__ = ["captured"]

_LIBRARIES = {"jax", "jaxlib", "luciole", "numpy", "numpyro", "scipy", *sys.stdlib_module_names} - {"types", "__main__"}
_VALUES = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis))


class Same:
    """An object that equals itself only; it is kept alive, so that no other can take its place in memory."""

    __slots__ = ("value",)

    def __init__(self, value: Any):
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and self.value is other.value

    __hash__ = None  # type: ignore[assignment]


class Reads(NamedTuple):
    """Names that a piece of code reads from outside, each with the chain of attributes that is taken of it."""

    globals: tuple[tuple[str, ...], ...]
    around: tuple[tuple[str, ...], ...]


@functools.lru_cache(maxsize=256)
def _reads(code: CodeType) -> Reads:
    """Of a function's code, that of the functions inside it included."""
    found: tuple[dict[tuple[str, ...], None], dict[tuple[str, ...], None]] = ({}, {})
    waiting = [code]
    while waiting:
        inner = waiting.pop()
        waiting += [c for c in inner.co_consts if isinstance(c, CodeType)]
        chain: tuple[str, ...] = ()
        kind: dict[tuple[str, ...], None] = found[0]
        for step in [*dis.get_instructions(inner), None]:
            if chain and step is not None and step.opname in ("LOAD_ATTR", "LOAD_METHOD"):
                chain = (*chain, step.argval)
                continue
            if chain:
                kind[chain] = None
            chain = ()
            if step is not None and step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
                chain, kind = (step.argval,), found[0]
            elif step is not None and step.opname == "LOAD_DEREF" and step.argval in code.co_freevars:
                chain, kind = (step.argval,), found[1]
    return Reads(tuple(found[0]), tuple(found[1]))


def captured(program: BatchProgram) -> list[Any] | None:
    """The fingerprint: compare with `==`. None, which is to be taken for a change, if a value belongs to a trace.

    Args:
        program: what may have been compiled before.
    """
    walk = _Walk()
    walk.function(program.function)
    return None if walk.traced else walk.found


class _Walk:
    def __init__(self) -> None:
        self.found: list[Any] = []
        self.traced = False
        self._visited: dict[int, Any] = {}

    def function(self, function: FunctionType) -> None:
        """What a function reads."""
        if not self._enter(function):
            return
        self.found.append(Same(function.__code__))
        reads = _reads(function.__code__)
        for chain in reads.globals:
            if chain[0] in function.__globals__:  # else a builtin
                self._chain(function.__globals__[chain[0]], chain[1:])
        cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
        for chain in reads.around:
            try:
                self._chain(cells[chain[0]].cell_contents, chain[1:])
            except ValueError:  # not yet assigned
                self.found.append("unassigned")
        self.value(function.__defaults__)
        self.value(function.__kwdefaults__)

    def _chain(self, owner: Any, attributes: tuple[str, ...]) -> None:
        """A value and what is read of it; a property is not run: it reads its object, which is looked through."""
        for name in attributes:
            if isinstance(owner, ModuleType):
                if _of_library(owner.__name__):
                    self.found.append(Same(owner))
                    return
                owner = vars(owner).get(name)
                continue
            self.value(owner)
            if owner is None or isinstance(owner, (jax.Array, np.ndarray, BatchProgram, *_VALUES)):
                return
            owner = inspect.getattr_static(owner, name, None)
            if isinstance(owner, (staticmethod, classmethod)):
                owner = owner.__func__
            elif isinstance(owner, property):
                owner = owner.fget
        self.value(owner)

    def value(self, value: Any) -> None:
        """What a value is, as far as a program can see it."""
        if isinstance(value, _VALUES):
            self.found.append((type(value), repr(value) if isinstance(value, (float, complex)) else value))
        elif isinstance(value, Tracer):
            self.traced = True
        elif isinstance(value, np.ndarray):
            self._array(value)
        elif isinstance(value, BatchProgram):
            self.function(value.function)
        elif isinstance(value, FunctionType) and not _of_library(value.__module__):
            self.function(value)
        elif isinstance(value, (list, tuple, set, frozenset, dict)):
            self._container(value)
        elif isinstance(value, (MethodType, functools.partial)):
            self._parts(
                value, [value.__self__, value.__func__] if isinstance(value, MethodType) else [value.func, value.args, value.keywords]
            )
        else:
            self.found.append(Same(value))
            if hasattr(value, "__dict__") and not isinstance(value, (type, ModuleType)) and not _of_library(type(value).__module__):
                self._parts(value, [vars(value)])

    def _array(self, array: np.ndarray) -> None:
        self.found += [Same(array), array.shape, array.strides]
        if array.dtype.hasobject:
            self._parts(array, array.ravel().tolist())
        else:
            self.found.append(zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data) if array.size else 0)

    def _container(self, items: Any) -> None:
        self.found += [type(items), len(items)]
        if isinstance(items, (set, frozenset)):
            self.found.append(frozenset(items))
        else:
            self._parts(items, [x for pair in items.items() for x in pair] if isinstance(items, dict) else items)

    def _parts(self, whole: Any, parts: Any) -> None:
        if self._enter(whole):
            for part in parts:
                self.value(part)

    def _enter(self, value: Any) -> bool:
        """Whether something is met for the first time in this walk."""
        if id(value) in self._visited:
            return False
        self._visited[id(value)] = value
        return True


def _of_library(name: Any) -> bool:
    return isinstance(name, str) and name.partition(".")[0] in _LIBRARIES
