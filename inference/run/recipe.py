"""What is written down of a run so that another process can take it up: kernel, settings, key, and the fingerprint of model and data.

Kernels and start strategies are written by name and settings, never as code; what has no such form (a kernel of the user's own) is given
again when the run is resumed. Model and data are given again too, and compared with their fingerprint.
"""

import functools
import importlib.metadata
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from ...ppl import initial
from ...transforms.digest import array_digest, digest
from ...transforms.structure import structure
from ..kernels.layout import Layout

__all__ = ["Fingerprint", "Unwritable", "differences", "fingerprint", "kernel_settings", "read", "versions", "write"]

_PACKAGES = ("luciole", "jax", "jaxlib", "numpy", "numpyro")
_STRATEGIES = {c.__name__: c for c in vars(initial).values() if isinstance(c, type) and issubclass(c, initial.InitStrategy)}


class Unwritable(Exception):
    """A value has no written form."""


def write(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """A setting in JSON's types; its arrays are put into `arrays`, and named.

    Raises:
        Unwritable: it has no such form.
    """
    if value is None or isinstance(value, (bool, np.bool_, str)):
        return value if value is None or isinstance(value, str) else bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, (np.ndarray, jax.Array)):
        if getattr(value.dtype, "kind", "") not in tuple("biuf"):  # random keys have none
            raise Unwritable
        name = f"array_{len(arrays)}"
        arrays[name] = np.asarray(value)
        return {"array": name}
    if isinstance(value, Mapping):
        return {"mapping": [[write(k, arrays), write(v, arrays)] for k, v in value.items()]}
    if isinstance(value, (tuple, list)):
        return {type(value).__name__: [write(v, arrays) for v in value]}
    if type(value).__name__ in _STRATEGIES and type(value) is _STRATEGIES[type(value).__name__]:
        return {"strategy": type(value).__name__, "settings": write({f.name: getattr(value, f.name) for f in fields(value)}, arrays)}
    raise Unwritable


def read(written: Any, arrays: Mapping[str, Any]) -> Any:
    """The setting that `write` has written."""
    if not isinstance(written, dict):
        return written
    if "float" in written:
        return float(written["float"])
    if "array" in written:
        return np.asarray(arrays[written["array"]])
    if "mapping" in written:
        return {read(k, arrays): read(v, arrays) for k, v in written["mapping"]}
    if "strategy" in written:
        return _STRATEGIES[written["strategy"]](**read(written["settings"], arrays))
    ((kind, items),) = written.items()
    return {"tuple": tuple, "list": list}[kind](read(v, arrays) for v in items)


def kernel_settings(kernel: Any) -> dict[str, Any]:
    """A kernel's settings by name, but for its model.

    Raises:
        Unwritable: it is not made of fields.
    """
    if not is_dataclass(kernel):
        raise Unwritable
    return {f.name: getattr(kernel, f.name) for f in fields(kernel) if f.name != "model"}


@functools.lru_cache(maxsize=1)
def versions() -> Mapping[str, str]:
    """Of the packages that draws depend on."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a bare checkout
            found[name] = ""
    return found


class Fingerprint(NamedTuple):
    """What a run's model and data are known by.

    Attributes:
        sites: of the model, (name, role, shape, dtype).
        program: digest of what the model does with its data; comparable on the same versions of jax and numpyro only.
        arguments: digests of the model's array arguments, by name.
        leaves: (shape, dtype, digest) of every array that the density reads.
    """

    sites: Sequence[Sequence[Any]]
    program: str
    arguments: Mapping[str, str]
    leaves: Sequence[Sequence[Any]]


def fingerprint(density: Any) -> Fingerprint:
    """Of a log density."""
    leaves, treedef = jax.tree.flatten(density)
    program = density.program
    if hasattr(program, "structure_key"):
        key = program.structure_key(differentiated=False)
    else:
        key = structure(
            jax.make_jaxpr(lambda leaves, p: jax.tree.unflatten(treedef, leaves)(p))(leaves, density.positions), differentiated=False
        )
    sites = [[name, s.role, list(s.shape), str(s.dtype)] for name, s in program.sites.items()]
    known: dict[int, str] = {}  # by identity: an argument that the model reads as it is, is read through once

    def digest_of(array: Any) -> str:
        if id(array) not in known:
            known[id(array)] = array_digest(array)
        return known[id(array)]

    arguments = {name: digest_of(a.value) for name, a in getattr(program, "arguments", {}).items() if _has_digest(a.value)}
    described = [[list(np.shape(leaf)), str(leaf.dtype), digest_of(leaf)] for leaf in leaves]
    return Fingerprint(sites, digest(key), arguments, described)


def _has_digest(value: Any) -> bool:
    return getattr(getattr(value, "dtype", None), "kind", "O") in tuple("biufUMm")


def differences(stored: Fingerprint, now: Fingerprint, same_versions: bool) -> str:
    """What is different about a model or its data, in words; "" if nothing is."""
    before, after = ({s[0]: list(s[1:]) for s in f.sites} for f in (stored, now))
    for name in [*before, *after]:
        if before.get(name) != after.get(name):
            return f"the model has changed: site {name!r} was {_site(before.get(name))} and is {_site(after.get(name))}"
    for name in [*stored.arguments, *now.arguments]:
        if stored.arguments.get(name) != now.arguments.get(name):
            return f"the data have changed: the values of the argument {name!r} are others"
    if len(stored.leaves) != len(now.leaves) and same_versions:
        return f"the model has changed: it read {len(stored.leaves)} arrays and reads {len(now.leaves)}"
    for was, here in zip(stored.leaves, now.leaves, strict=False):
        if list(was) != list(here) and (same_versions or was[:2] == here[:2]):
            return f"the data have changed: an array of shape {tuple(was[0])} ({was[1]}) has other values or another type or shape"
    if stored.program != now.program and same_versions:
        return "the model has changed: it computes something else with the same data"
    return ""


def _site(found: list[Any] | None) -> str:
    return "not there" if found is None else f"{found[0]}, shape {tuple(found[1])}, {found[2]}"


def layout_of(density: Any) -> list[list[Any]]:
    """The order of the coordinates in the chains' vectors: (site, shape, dtype)."""
    return [[name, list(shape), dtype] for name, shape, dtype in Layout.of(density.positions).sites]
