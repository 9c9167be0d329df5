"""`bounded_jit`: `jax.jit` with static arguments, of which only the latest are kept.

JAX keeps what it compiled for a static argument, and the argument itself, as long as the jitted function lives: for ever, if that stands at
the top of a module. Here every combination of static arguments has a jitted function of its own, and the least recently used ones are
dropped, with their programs and whatever their arguments refer to.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax

__all__ = ["PROGRAMS", "BoundedJit", "bounded_jit"]

PROGRAMS = 64  # a program is some 100 kB; a model and its prediction take about ten of them


class BoundedJit:
    """A compiled function that keeps the programs of its latest static arguments; made by `bounded_jit`."""

    def __init__(self, function: Callable[..., Any], static: tuple[int, ...], donate: tuple[int, ...], maxsize: int):
        self._function, self._static = function, static
        self._donate = tuple(n - sum(s < n for s in static) for n in donate)
        self._specialised = functools.lru_cache(maxsize, typed=True)(self._specialise)
        functools.update_wrapper(self, function)

    def _specialise(self, *fixed: Hashable) -> Any:
        places = dict(zip(self._static, fixed, strict=True))

        def run(*args: Any, **kwargs: Any) -> Any:
            rest = iter(args)
            return self._function(*(places[n] if n in places else next(rest) for n in range(len(places) + len(args))), **kwargs)

        run.__name__, run.__qualname__, run.__module__ = self._function.__name__, self._function.__qualname__, self._function.__module__
        return jax.jit(run, donate_argnums=self._donate)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        fixed = self._specialised(*(args[n] for n in self._static))
        return fixed(*(x for n, x in enumerate(args) if n not in self._static), **kwargs)

    def _cache_size(self) -> int:
        """How many combinations of static arguments are kept; by the name that JAX gives it."""
        return self._specialised.cache_info().currsize

    def cache_parameters(self) -> dict[str, Any]:
        """As of `functools.lru_cache`."""
        return dict(self._specialised.cache_parameters())

    def cache_clear(self) -> None:
        """Drops every program."""
        self._specialised.cache_clear()


def bounded_jit(
    static_argnums: int | tuple[int, ...], donate_argnums: int | tuple[int, ...] = (), maxsize: int = PROGRAMS
) -> Callable[[Callable[..., Any]], BoundedJit]:
    """A decorator: `jax.jit` that forgets.

    Args:
        static_argnums: positional arguments that are part of the program, hashable; equal ones share it.
        donate_argnums: as for `jax.jit`.
        maxsize: combinations of static arguments that are kept.
    """

    def numbers(n: int | tuple[int, ...]) -> tuple[int, ...]:
        return (n,) if isinstance(n, int) else tuple(n)

    return lambda function: BoundedJit(function, numbers(static_argnums), numbers(donate_argnums), maxsize)
