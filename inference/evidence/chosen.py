"""The arguments of a model in which something is differentiated: as arrays, and which of the program's data they are."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...ppl import LogDensity, log_density
from ...ppl.gate import admit
from ...transforms import EvidenceError, LucioleError
from ...transforms.settings import is_whole

__all__ = ["Chosen"]


@dataclass(frozen=True)
class Chosen:
    """Some of a model's arguments.

    Attributes:
        owner: the function to name in errors. model, args, kwargs: with the chosen ones as JAX arrays, which no other argument is.
        numbers: which are chosen. single: whether one was asked for, and no sequence.
        leaves: their arrays, floating point. tree: of them all.
    """

    owner: str
    model: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    numbers: tuple[int, ...]
    single: bool
    leaves: tuple[jax.Array, ...]
    tree: Any

    @classmethod
    def of(cls, owner: str, model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], argnums: Any) -> "Chosen":
        """Raises:
        EvidenceError: argnums names no argument, or one that is not of floating point.
        """
        numbers = _numbers(owner, argnums, len(args))
        given = admit(model, args, kwargs).args
        leaves, tree = jax.tree.flatten(tuple(given[n] for n in numbers))
        places = [n for n in numbers for _ in jax.tree.leaves(given[n])]
        if not leaves:
            raise EvidenceError(f"{owner}: argnums={argnums!r} chooses arguments without an array in them; name one that has floats.")
        arrays = tuple(_array(owner, n, leaf) for n, leaf in zip(places, leaves, strict=True))
        whole = list(args)
        for n, value in zip(numbers, jax.tree.unflatten(tree, arrays), strict=True):
            whole[n] = value
        return cls(owner, model, tuple(whole), kwargs, numbers, not isinstance(argnums, Sequence), arrays, tree)

    def density(self) -> LogDensity:
        """The model's density, at which every chosen array is one of the data, or without influence.

        Raises:
            ModelError: as `log_density`.
            EvidenceError: the model reads a chosen array past JAX, so that a derivative would not see it.
        """
        density = log_density(self.model, *self.args, **self.kwargs)
        try:
            jax.eval_shape(self._data, self.leaves)
        except (LucioleError, jax.errors.JAXTypeError) as e:
            raise EvidenceError(
                f"{self.owner}: the model needs the values of the arguments that are differentiated (argnums {list(self.numbers)}) "
                "while it is traced, by NumPy or in an `if`, where no derivative sees them. Compute with jax.numpy in the model, or "
                f"before it. The trace says: {e}"
            ) from e
        return density

    def places(self, data: Sequence[Any]) -> tuple[int, ...]:
        """Where the arrays are among the program's data; an array that the model does not read is in no place: see `read`."""
        found = zip(self.leaves, self.read(data), strict=True)
        return tuple(next(i for i, value in enumerate(data) if value is leaf) for leaf, on in found if on)

    def read(self, data: Sequence[Any]) -> tuple[bool, ...]:
        """Which of the arrays the program reads."""
        return tuple(any(value is leaf for value in data) for leaf in self.leaves)

    def like(self, leaves: Sequence[Any]) -> Any:
        """Arrays, one for each of the leaves, as the arguments are; with axes of their own in front, if they have some."""
        values = jax.tree.unflatten(self.tree, leaves)
        return values[0] if self.single else values

    def _data(self, leaves: Sequence[Any]) -> list[Any]:
        whole = list(self.args)
        for n, value in zip(self.numbers, jax.tree.unflatten(self.tree, leaves), strict=True):
            whole[n] = value
        return list(log_density(self.model, *whole, **self.kwargs).program.jaxpr.consts)


def _numbers(owner: str, argnums: Any, count: int) -> tuple[int, ...]:
    numbers: tuple[Any, ...] = tuple(argnums) if isinstance(argnums, Sequence) and not isinstance(argnums, str) else (argnums,)
    if not numbers or not all(map(is_whole, numbers)):
        raise EvidenceError(
            f"{owner}: argnums is {argnums!r}; a whole number or a tuple of them expected, positions among the model's arguments."
        )
    if any(not -count <= n < count for n in numbers):
        raise EvidenceError(
            f"{owner}: argnums={argnums!r} names an argument that is not there: the model was given {count} by position. Give by position "
            "what is to be differentiated."
        )
    numbers = tuple(n % count for n in numbers)
    if len(set(numbers)) < len(numbers):
        raise EvidenceError(f"{owner}: argnums={argnums!r} names an argument twice.")
    return numbers


def _array(owner: str, number: int, leaf: Any) -> jax.Array:
    dtype = getattr(leaf, "dtype", np.asarray(leaf).dtype)
    if not jnp.issubdtype(dtype, jnp.floating):
        what = f"an array of {dtype}" if hasattr(leaf, "dtype") else f"{leaf!r}, a {type(leaf).__name__}"
        raise EvidenceError(
            f"{owner}: argument {number} of the model has {what} in it, and only floating point numbers have a derivative. Write it as a "
            "float, or name other arguments with argnums."
        )
    return jnp.array(np.asarray(leaf) if not isinstance(leaf, jax.Array) else leaf, jax.dtypes.canonicalize_dtype(dtype))
