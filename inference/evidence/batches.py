"""The rows of a plate, cut into minibatches.

The model is traced a second time on arguments that keep only some rows. The data of the two programs correspond one to one: what has
lost rows is row data and will be gathered by index, everything else must be the same. That the likelihood of all rows is the sum over
batches is then checked with numbers, at draws from the prior, and not assumed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...ppl import LogDensity, log_density
from ...ppl.plates import observed_plate
from ...transforms import EvidenceError, LucioleError
from ...transforms.bounded import bounded_jit
from ...transforms.keys import random_key
from ...transforms.settings import is_whole
from .objective import Objective

__all__ = ["Batches", "cut"]

_DRAWS = 2  # from the prior, where the likelihood of all rows is compared with the sum over batches
_ROUNDING = 1000  # units in the last place that the two may differ by, relative to the sum of absolute values


@dataclass(frozen=True)
class Batches:
    """How a batch is taken; hashable, because it is part of a compiled program.

    Attributes:
        objective: the model on one batch. is_rows: which of its data have a leading axis of rows.
        num_rows, size: of the plate and of a batch.
    """

    objective: Objective
    is_rows: tuple[bool, ...]
    num_rows: int
    size: int

    @property
    def count(self) -> int:
        """Number of batches that make up the rows."""
        return self.num_rows // self.size

    def gather(self, data: Sequence[Any], rows: jax.Array) -> list[Any]:
        """The data of some rows, (batch,) numbers, from the data of all."""
        return [jnp.take(leaf, rows, axis=0) if cut else leaf for leaf, cut in zip(data, self.is_rows, strict=True)]

    def log_likelihood(self, data: Sequence[Any], vectors: jax.Array, rows: jax.Array) -> jax.Array:
        """Log likelihood of all rows, one batch at a time.

        Args:
            data: of all rows.
            vectors: (restart, dim).
            rows: (num_rows,), the order in which rows are taken.

        Returns:
            (restart,), nats.
        """

        def add(total, some):
            prepared = self.objective.prepare(self.gather(data, some))
            return total + jax.vmap(partial(self.objective.log_likelihood, prepared))(vectors), None

        blocks = rows.reshape(self.count, self.size)
        return lax.scan(add, jnp.zeros(vectors.shape[:1], vectors.dtype), blocks)[0]


def cut(
    model: Callable[..., Any],
    args: tuple,
    kwargs: dict,
    density: LogDensity,
    data: Sequence[Any],
    objective: Objective,
    batch_size: int,
    plate: str | None,
) -> Batches:
    """Cuts a plate's rows into batches, and checks that its likelihood is the sum over them.

    Args:
        model, args, kwargs: the model and all the data.
        density, objective: the same, traced. data: those of the density, on the devices.
        batch_size: rows in a batch.
        plate: the plate's name; None if there is one candidate.

    Raises:
        EvidenceError: no such plate; a size that does not divide it; a model that does not split into batches.
    """
    name, num_rows = observed_plate(objective.program, plate, "sgd_evidence", EvidenceError)
    _check_size(batch_size, name, num_rows)
    order = np.random.default_rng(0).permutation(num_rows)  # rows that are sorted must not look alike by accident
    part = _on_rows(model, args, kwargs, order[:batch_size], name, num_rows)
    if part.positions != density.positions:
        raise _does_not_split(name, "a latent site changes its shape with the number of rows; sample it outside of the plate, once")
    is_rows = _row_data(density.data, part.data, order[:batch_size], name)
    batches = Batches(Objective(part.program, objective.layout), is_rows, num_rows, batch_size)
    _check_sum(batches, objective, data, order, name)
    return batches


def _check_size(batch_size: Any, name: str, num_rows: int) -> None:
    if not is_whole(batch_size) or not 0 < batch_size <= num_rows:
        raise EvidenceError(f"sgd_evidence: batch_size is {batch_size!r}, a whole number from 1 to {num_rows}, the rows, expected.")
    if num_rows % batch_size:
        near = min((d for d in range(1, num_rows + 1) if num_rows % d == 0), key=lambda d: abs(d - batch_size))
        raise EvidenceError(
            f"sgd_evidence: the plate {name!r} has {num_rows} rows, which batch_size={batch_size} does not divide: a last batch of "
            f"another size would bias the path. Write batch_size={near}, or leave out {num_rows % batch_size} rows."
        )


def _on_rows(model, args, kwargs, rows: np.ndarray, name: str, num_rows: int) -> LogDensity:
    """The model's density on some of the rows of its arguments."""

    def keep(leaf):
        return leaf[rows] if isinstance(leaf, (np.ndarray, jax.Array)) and leaf.shape[:1] == (num_rows,) else leaf

    args, kwargs = jax.tree.map(keep, (args, kwargs))
    try:
        part = log_density(model, *args, **kwargs)
    except LucioleError as e:
        raise _does_not_split(name, f"on {len(rows)} rows the model cannot be traced ({e})") from e
    sizes = {p.size for s in part.program.sites.values() for p in s.spec.plates if p.name == name}
    if sizes != {len(rows)}:
        raise _does_not_split(name, f'its size does not follow from the data; write `lc.plate("{name}", x.shape[0])`')
    return part


def _row_data(whole: Sequence[Any], part: Sequence[Any], rows: np.ndarray, name: str) -> tuple[bool, ...]:
    """Which leaves are row data; every leaf must be the same as before, or the chosen rows of it."""
    if len(whole) != len(part):
        raise _does_not_split(name, "the model reads other arrays when it has fewer rows")
    found = []
    for a, b in zip(map(np.asarray, whole), map(np.asarray, part), strict=True):
        is_rows = not _same(a, b)
        if is_rows and not (a.ndim and len(a) > rows.max() and _same(a[rows], b)):
            raise _does_not_split(
                name,
                f"an array of shape {a.shape} becomes one of shape {b.shape} that is not its rows. Data that the model "
                "standardises, sorts or sums over rows must be prepared before they are given to it",
            )
        found.append(is_rows)
    if not any(found):
        raise _does_not_split(name, "no array of the model has its rows on the leading axis")
    return tuple(found)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _check_sum(batches: Batches, objective: Objective, data: Sequence[Any], order: np.ndarray, name: str) -> None:
    """The log likelihood of all rows is the sum over batches, at draws from the prior."""
    keys = jax.random.split(random_key(), _DRAWS)
    whole, parts = (np.asarray(x) for x in _whole_and_parts(batches, objective, data, keys, jnp.asarray(order)))
    slack = _ROUNDING * np.finfo(whole.dtype).eps * np.abs(whole)
    if not np.allclose(whole, parts, rtol=0, atol=np.nanmax(slack), equal_nan=True):
        raise _does_not_split(
            name,
            f"at a draw from the prior the log likelihood is {whole[0]:.6g} nats, and the sum over batches of {batches.size} rows "
            f"{parts[0]:.6g}. Rows must be independent given the latent sites, what the model computes over rows (means, sorting) must "
            "be prepared before, and factors or observations outside of the plate leave no way to cut it",
        )


@bounded_jit(static_argnums=(0, 1))
def _whole_and_parts(batches: Batches, objective: Objective, data: Sequence[Any], keys: jax.Array, rows: jax.Array):
    """Log likelihoods at draws from the prior, (key,) each: of all rows at once, and batch by batch."""
    vectors = jax.vmap(partial(objective.draw, data))(keys)
    whole = jax.vmap(partial(objective.log_likelihood, objective.prepare(data)))(vectors)
    return whole, batches.log_likelihood(data, vectors, rows)


def _does_not_split(name: str, why: str) -> EvidenceError:
    return EvidenceError(
        f"sgd_evidence: the likelihood of the plate {name!r} does not split into batches: {why}. Or write batch_size=None."
    )
