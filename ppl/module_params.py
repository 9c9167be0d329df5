"""The networks of `numpyro.contrib.module` in a model: `random_flax_module`, `random_nnx_module`, `random_eqx_module`.

They announce initial values, `numpyro.param("net$params", ...)`, which NumPyro's optimisers would train, and then put samples in place of
those that have a prior. So those params, and the key that makes initial values, are let through where NumPyro's own module asks for them;
when the model has run, each of its arrays must have a site. Then no initial value is left in it, and the density cannot depend on any.
"""

import sys
from collections.abc import Collection, Mapping
from types import FrameType
from typing import Any

import jax

from ..transforms import ModelError
from ..transforms.source_lines import calling_line

__all__ = ["ModuleParams"]

_SENDER = "numpyro.contrib.module"
_SUFFIX = "$params"
_BETWEEN = (__name__, f"{__package__}.bridge", "numpyro.primitives")  # what a message passes on its way here


class ModuleParams:
    """The params of one trace that stand for modules: by the module's name a site for each of its arrays, and the user's line."""

    def __init__(self) -> None:
        self.modules: dict[str, tuple[dict[str, str], str]] = {}

    def admits(self, msg: Mapping[str, Any]) -> bool:
        """Whether a message is one with which NumPyro sets up a random module: its params, or the key for their initial values."""
        named = msg["type"] == "prng_key" or (msg["type"] == "param" and msg["name"].endswith(_SUFFIX))
        return named and _random_module() is not None

    def note(self, msg: Mapping[str, Any]) -> None:
        """Keep what an admitted param holds. The first of two only asks whether there is one, and has no value."""
        caller = _random_module()
        if msg["value"] is None or caller is None:
            return
        divider, name = caller.f_locals.get("scope_divider", "/"), msg["name"].removesuffix(_SUFFIX)
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(msg["value"])[0]]
        if msg["args"]:  # flax: nested dicts, whose keys are joined with dots
            spelled = [jax.tree_util.keystr(path, simple=True, separator=".") for path in paths]
        else:  # equinox: a pytree that is made when it is asked for, with paths as JAX spells them
            spelled = [jax.tree_util.keystr(path)[1:] for path in paths]
        self.modules[name] = {path: f"{name}{divider}{path}" for path in spelled}, calling_line()

    def check(self, sites: Collection[str]) -> None:
        """Refuse a module with an array that has no site.

        Raises:
            ModelError: names the arrays and the user's line.
        """
        for name, (expected, line) in self.modules.items():
            left = [path for path, site in expected.items() if site not in sites]
            if left:
                raise ModelError(
                    f"the module {name!r} has {len(left)} of {len(expected)} parameters without a prior: {', '.join(map(repr, left))}. "
                    "They would be fixed at random initial values, and a posterior has no parameters to optimise. Give a prior for every "
                    "parameter: a dict with all their paths, one distribution for all, or a function of path and shape; or lift the module "
                    f'with `lc.random_module`, whose dicts take patterns such as `"*.bias"` ({line}).'
                )


def _random_module() -> FrameType | None:
    """The call of `random_flax_module` or its like that has sent the message in hand; None if something else has."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in _BETWEEN:
        frame = frame.f_back
    if frame is None or frame.f_globals.get("__name__") != _SENDER:
        return None
    caller = frame.f_back  # of `flax_module`, which alone would leave its params to an optimiser
    return caller if caller is not None and caller.f_globals.get("__name__") == _SENDER else None
