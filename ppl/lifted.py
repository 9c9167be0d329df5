"""Modules that `numpyro.contrib.module` lifts into sites: `random_flax_module` and `random_nnx_module`.

NumPyro registers a module's parameters as params, under one name, and then puts a site in the place of each that has a prior. If all have
one, nothing is left of the params: so their messages pass, and when the model has run, what is still a param is refused by name.
"""

from typing import Any

import jax

from ..transforms import ModelError

__all__ = ["LiftedModules"]

_MARK = "$params"


class LiftedModules:
    """What was registered while a model ran. NumPyro marks, in the tree that was handed to it, each parameter that has become a site."""

    def __init__(self) -> None:
        self._params: dict[str, Any] = {}
        self._asks_for_values = False

    def message(self, msg: dict[str, Any]) -> bool:
        """Whether the message belongs to a module, so that it passes."""
        if msg["type"] == "prng_key":  # initial values are drawn, and forgotten
            return self._asks_for_values
        name = msg["name"]
        if not name.endswith(_MARK) or callable(msg["args"][0]):
            return False
        self._asks_for_values = msg["args"][0] is None
        if not self._asks_for_values:
            self._params[name.removesuffix(_MARK)] = msg["args"][0]
        return True

    def check(self) -> None:
        """Refuses parameters without a prior.

        Raises:
            ModelError: names the module and the parameters.
        """
        for name, params in self._params.items():
            left = jax.tree_util.tree_flatten_with_path(params, is_leaf=lambda x: type(x).__name__ == "ParamShape")[0]
            without = [jax.tree_util.keystr(path, simple=True, separator=".") for path, leaf in left if type(leaf).__name__ != "ParamShape"]
            if without:
                raise ModelError(
                    f"module {name!r}: the parameters {without} have no prior, and a posterior has no params to optimise. Give each one, "
                    f"or all of them: `random_flax_module({name!r}, module, dist.Normal(0, 1), ...)`, or `lc.random_module`."
                )
