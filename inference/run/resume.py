"""Taking up a run that is in a store: what `MCMC.run` writes down, and what `MCMC.resume` makes of it."""

import importlib
import platform
import warnings
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ...ppl.initial import as_strategy
from ...transforms.errors import LucioleError, StoreError
from ...transforms.processes import in_step
from ..kernels.kernel import Kernel
from ..kernels.layout import float_type
from ..results.stored import check_free
from .notices import StoreWarning
from .placement import Placement
from .recipe import Fingerprint, Unwritable, differences, fingerprint, kernel_settings, layout_of, read, versions, write
from .spec import Settings
from .start import Start
from .store import Store
from .where import NOWHERE, Where

__all__ = ["check_place", "check_run", "kernel_of", "new_store", "start_from"]


def new_store(
    path: Path,
    kernel: Kernel,
    density: Any,
    words: np.ndarray,
    settings: Settings,
    start: Start,
    where: Where,
    extra_fields: tuple[str, ...],
) -> Store:
    """The store of a run that begins; `recipe` has what can be written of it.

    Raises:
        StoreError: there is something at that place, or it cannot be written to.
    """
    with in_step(
        f"store {str(path)!r}: looking whether the place is free", where.shared
    ):  # before the data are read through for their fingerprint
        check_free(path)
    arrays: dict[str, np.ndarray] = {}
    recipe = {
        "versions": dict(versions()),
        **_machine(density),
        **_devices(where),
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
    return Store.create(path, settings, recipe, arrays, attributes, where.shared)


def _machine(density: Any) -> dict[str, str]:
    return {"platform": Placement.of(density).platform, "machine": f"{platform.system()} {platform.machine()}"}


def _devices(where: Where) -> dict[str, Any]:
    """For information: the state of a run does not depend on it."""
    tactics = None if where.tactics is None else [str(tactic) for tactic in where.tactics]
    return {"mesh": where.sizes, "tactics": tactics, "processes": jax.process_count() if where.shared else 1}


def _written_kernel(kernel: Kernel, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Class and settings; `unwritten` names the settings without a written form, and is None if it is not known which there are."""
    kind, settings, unwritten = type(kernel), {}, []
    written = {"module": kind.__module__, "name": kind.__qualname__}
    try:
        given = kernel_settings(kernel)
    except Unwritable:
        return {**written, "settings": write({}, arrays), "unwritten": None}
    for name, value in given.items():
        mine: dict[str, np.ndarray] = dict(arrays)
        try:
            settings[name] = write(value, mine)
            arrays |= mine
        except Unwritable:
            unwritten.append(name)
    return {**written, "settings": {"mapping": list(settings.items())}, "unwritten": unwritten}


def _written_start(start: Start, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    given = start._asdict()
    try:
        strategy = write(given.pop("strategy"), arrays)
    except Unwritable:
        if start.own:
            raise StoreError(
                "MCMC.run: init_params is a strategy of a class of your own, which a store cannot hold; give it to the kernel, "
                "init_strategy=..., which is given again when the run is resumed, or give positions."
            ) from None
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
        if kind is None or written["unwritten"] != []:
            why = "is not one that Luciole has" if kind is None else f"has settings that cannot be written down, {written['unwritten']}"
            raise StoreError(
                f"store {shown}: the run's kernel {written['name']} {why}; give it as the run had it: "
                f"MCMC.resume({shown}, kernel={written['name']}(model, ...), args=(...))."
            )
        settings = read(written["settings"], store.arrays)
        try:
            return kind(model, **settings)
        except (TypeError, LucioleError) as e:  # of another version
            raise StoreError(
                f"store {shown}: {written['name']} does not take the run's settings {settings} ({e}); resume it with the version of "
                f"Luciole that wrote it, {store.recipe['versions']['luciole'] or 'a checkout'}."
            ) from e
    if type(given).__qualname__ != written["name"] or _kind(written) not in (None, type(given)):
        raise StoreError(
            f"store {shown}: the run's kernel is {written['name']}, kernel= is {type(given).__qualname__}; leave kernel= out, or give the "
            "run's."
        )
    _check_settings(store, given)
    if model is not None and is_dataclass(given) and "model" in {f.name for f in fields(given)}:
        return replace(given, model=model)  # pyright: ignore[reportCallIssue]
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
    """Where the run's chains start, for runs that have not started. A strategy that is not written down is the kernel's."""
    written = store.recipe["start"]
    rest = read(written["rest"], store.arrays)
    written_down = written["strategy"] is not None
    return Start(**rest, strategy=read(written["strategy"], store.arrays) if written_down else as_strategy(kernel.init_strategy))


def check_place(store: Store, where: Where) -> None:
    """Refuses what would change the run, and warns of what may change its last bits.

    Raises:
        StoreError: the float type is another.

    Warns:
        StoreWarning: versions or devices are others.
    """
    recipe, shown = store.recipe, repr(str(store.path))
    if recipe["float"] != float_type():
        write = f"jax.config.update('jax_enable_x64', {recipe['float'] == 'float64'})"
        raise StoreError(f"store {shown}: the run is in {recipe['float']}, this process in {float_type()}; write {write} before resuming.")
    now = versions()
    changed = [f"{name} {was or 'checkout'} (now {now.get(name)})" for name, was in recipe["versions"].items() if now.get(name) != was]
    if changed:
        unseen = "" if _same_versions(recipe) else "; of the model only sites and data can be compared, see to it that its code is the same"
        _warn(
            f"store {shown} was written with {', '.join(changed)}: the draws continue the same chains, and may differ in the last bits"
            f"{unseen}."
        )
    here = _devices(where)
    was = {name: recipe.get(name, of) for name, of in _devices(NOWHERE).items()}  # of stores from before there were meshes
    if was != here:
        _warn(
            f"store {shown}: the run began {_place(**was)}, and goes on {_place(**here)}: the draws continue the same chains, and may "
            "differ in the last bits."
        )


def _place(mesh: Mapping[str, int], tactics: list[str] | None, processes: int) -> str:
    """Devices in words that can be written again."""
    if not mesh:
        return "on one device"
    split = "" if tactics is None else f", tactics=[{', '.join(tactics)}]"
    return f"with mesh={dict(mesh)}{split}{f' over {processes} processes' if processes > 1 else ''}"


def check_run(store: Store, density: Any) -> None:
    """Refuses another model or other data than the run's.

    Raises:
        StoreError: says which site or argument is different.

    Warns:
        StoreWarning: the machine is of another kind.
    """
    shown, recipe = repr(str(store.path)), store.recipe
    try:
        different = differences(Fingerprint(**recipe["model"]), fingerprint(density), _same_versions(recipe))
    except LucioleError as e:
        raise StoreError(f"store {shown}: model and data cannot be compared with the run's ({e}).") from e
    if different:
        raise StoreError(f"store {shown}: {different}. A run goes on with the model and the data that it began with; for others run anew.")
    if layout_of(density) != recipe["layout"]:
        was, now = ([f"{name} {tuple(shape)}" for name, shape, _ in layout] for layout in (recipe["layout"], layout_of(density)))
        raise StoreError(
            f"store {shown}: the model has changed: its latent sites were, unconstrained and in this order, {', '.join(was)}, and are "
            f"{', '.join(now)}. A run goes on with the model that it began with; for another run anew."
        )
    here = _machine(density)
    if any(here[name] != recipe[name] for name in here):
        was = f"{recipe['platform']} of {recipe['machine']}"
        _warn(
            f"store {shown} was written on {was}, and goes on on {here['platform']} of {here['machine']}: the draws may differ in the last "
            "bits."
        )


def _same_versions(recipe: Mapping[str, Any]) -> bool:
    """Whether models can be compared by what they compute."""
    return all(versions()[name] == recipe["versions"].get(name) for name in ("jax", "numpyro", "luciole"))


def _warn(words: str) -> None:
    warnings.warn(words, StoreWarning, stacklevel=4)
