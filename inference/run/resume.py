"""Taking up a run that is in a store: what `MCMC.run` writes down, and what `MCMC.resume` makes of it."""

import importlib
import os
import platform
import warnings
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...ppl.initial import as_strategy
from ...transforms.errors import LucioleError, StoreError
from ..kernels.kernel import Kernel
from .notices import StoreWarning
from .placement import Placement
from .recipe import Fingerprint, Unwritable, differences, fingerprint, float_type, kernel_settings, layout_of, read, versions, write
from .spec import Settings
from .start import Start
from .store import Store, check_free

__all__ = ["check_place", "check_run", "kernel_of", "new_store", "path_of", "start_from"]


def path_of(store: Any) -> Path:
    """The folder of a store.

    Raises:
        StoreError: it is no path.
    """
    if not isinstance(store, (str, os.PathLike)) or not str(store):
        raise StoreError(f"MCMC: store is {store!r}, the path of a folder expected; write store='run.zarr'.")
    return Path(store)


def new_store(
    path: Path, kernel: Kernel, density: Any, words: np.ndarray, settings: Settings, start: Start, extra_fields: tuple[str, ...]
) -> Store:
    """The store of a run that begins; `recipe` has what can be written of it.

    Raises:
        StoreError: there is something at that place, or it cannot be written to.
    """
    check_free(path)
    arrays: dict[str, np.ndarray] = {}
    recipe = {
        "versions": versions(),
        **_machine(density),
        "float": float_type(),
        "kernel": _written_kernel(kernel, arrays),
        "key": [int(word) for word in words],
        "start": _written_start(start, arrays),
        "model": fingerprint(density)._asdict(),
        "layout": layout_of(density),
        "extra_fields": list(extra_fields),
    }
    attributes = {"kernel": type(kernel).__name__}
    attributes |= {name: int(value) for name, value in settings._asdict().items() if isinstance(value, (bool, int))}
    return Store.create(path, settings, recipe, arrays, attributes)


def _machine(density: Any) -> dict[str, str]:
    return {"platform": Placement.of(density).platform, "machine": f"{platform.system()} {platform.machine()}"}


def _written_kernel(kernel: Kernel, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    kind = type(kernel)
    try:
        settings = write(kernel_settings(kernel), arrays)
    except Unwritable:
        settings = None
    return {"module": kind.__module__, "name": kind.__qualname__, "settings": settings}


def _written_start(start: Start, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    given = start._asdict()
    try:
        strategy = write(given.pop("strategy"), arrays)
    except Unwritable:
        strategy = None
    return {"strategy": strategy, "rest": write(given, arrays)}


def kernel_of(store: Store, model: Any, given: Kernel | None) -> Kernel:
    """The kernel of a stored run.

    Args:
        store: the run.
        model: the model; None if the given kernel has it.
        given: the kernel, which has to be given for kernels of the user's own.

    Raises:
        StoreError: it cannot be made from what is written, or is another than the run's.
    """
    written, shown = store.recipe["kernel"], repr(str(store.path))
    if given is None:
        if model is None:
            raise StoreError(f"MCMC.resume: the model is missing; write MCMC.resume({shown}, model=model, args=(...)).")
        kind = _kind(written)
        if kind is None or written["settings"] is None:
            raise StoreError(
                f"store {shown}: its kernel {written['name']} is not Luciole's, or has settings that are not written down; write "
                f"MCMC.resume({shown}, kernel={written['name']}(model, ...), ...), as for the run."
            )
        return kind(model, **read(written["settings"], store.arrays))
    if type(given).__qualname__ != written["name"]:
        raise StoreError(f"store {shown}: the run's kernel is {written['name']}, kernel= is {type(given).__qualname__}; leave kernel= out.")
    _check_settings(store, given)
    if model is not None and "model" in {f.name for f in fields(given)}:  # pyright: ignore[reportArgumentType]
        return replace(given, model=model)  # pyright: ignore[reportArgumentType, reportCallIssue]
    return given


def _kind(written: Mapping[str, Any]) -> Any:
    """The class of a kernel of ours; None if it is not ours."""
    if written["module"].split(".")[0] != __name__.split(".")[0]:
        return None
    try:
        return getattr(importlib.import_module(written["module"]), written["name"], None)
    except ImportError:
        return None


def _check_settings(store: Store, given: Kernel) -> None:
    written = store.recipe["kernel"]["settings"]
    if written is None:
        return
    try:
        here = kernel_settings(given)
    except Unwritable:
        return
    for name, value in read(written, store.arrays).items():
        if name in here and not _same(value, here[name]):
            raise StoreError(
                f"store {str(store.path)!r}: the run's kernel has {name}={value!r}, kernel= has {here[name]!r}; a run goes on with the "
                "settings that it has. Leave kernel= out, or give them as they were."
            )


def _same(written: Any, given: Any) -> bool:
    """Whether a setting is the one that was written, to the bit."""
    mine, theirs = {}, {}
    try:
        forms = write(written, mine), write(given, theirs)
    except Unwritable:
        return True  # nothing to compare with
    return forms[0] == forms[1] and all(np.array_equal(mine[n], theirs[n]) for n in mine)


def start_from(store: Store, kernel: Kernel) -> Start:
    """Where the run's chains start, for runs that have not started.

    Raises:
        StoreError: a strategy of the user's own was given to `run`.
    """
    written = store.recipe["start"]
    rest = read(written["rest"], store.arrays)
    if written["strategy"] is not None:
        return Start(**rest, strategy=read(written["strategy"], store.arrays))
    if rest["own"]:
        raise StoreError(
            f"store {str(store.path)!r}: the run was started with init_params= of a class of your own, which is not written down; "
            "give it as the kernel's init_strategy instead, and run anew."
        )
    return Start(**rest, strategy=as_strategy(kernel.init_strategy))


def check_place(store: Store) -> None:
    """Refuses what would change the run, and warns of what may change its last bits.

    Raises:
        StoreError: the float type is another.

    Warns:
        StoreWarning: versions or platform are others.
    """
    recipe, shown = store.recipe, repr(str(store.path))
    if recipe["float"] != float_type():
        write = f"jax.config.update('jax_enable_x64', {recipe['float'] == 'float64'})"
        raise StoreError(f"store {shown}: the run is in {recipe['float']}, this process in {float_type()}; write {write} before.")
    now = versions()
    changed = [f"{name} {was} (now {now[name]})" for name, was in recipe["versions"].items() if now.get(name) != was]
    if changed:
        _warn(f"store {shown} was written with {', '.join(changed)}: the draws continue the same chains, and may differ in the last bits.")


def check_run(store: Store, density: Any) -> None:
    """Refuses another model or other data than the run's.

    Raises:
        StoreError: says which site or argument is different.

    Warns:
        StoreWarning: the machine is of another kind.
    """
    shown, recipe = repr(str(store.path)), store.recipe
    same = all(versions()[name] == recipe["versions"].get(name) for name in ("jax", "numpyro", "luciole"))
    try:
        different = differences(Fingerprint(**recipe["model"]), fingerprint(density), same)
    except LucioleError as e:
        raise StoreError(f"store {shown}: model and data cannot be compared with the run's ({e}).") from e
    if different:
        raise StoreError(f"store {shown}: {different}. A run goes on with the model and the data that it began with; for others run anew.")
    if layout_of(density) != recipe["layout"]:
        raise StoreError(f"store {shown}: the unconstrained sites have other shapes or another order than the run's.")
    here = _machine(density)
    if any(here[name] != recipe[name] for name in here):
        was = f"{recipe['platform']} of {recipe['machine']}"
        _warn(
            f"store {shown} was written on {was}, and goes on on {here['platform']} of {here['machine']}: the draws may differ in the last "
            "bits."
        )


def _warn(words: str) -> None:
    warnings.warn(words, StoreWarning, stacklevel=4)
