"""What summing out costs, known before anything is compiled: the order in which sites go, and the tables that are made for it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from ...transforms import ModelError
from .values import Lifted, Variable

__all__ = ["Report", "Table"]


@dataclass(frozen=True)
class Table:
    """One table: what it is for, the sizes of its axes, the bytes of an element."""

    what: str
    shape: tuple[int, ...]
    itemsize: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * self.itemsize

    def __str__(self) -> str:
        return f"{self.what}: {' x '.join(map(str, self.shape)) or '1'} = {self.elements:,} elements, {in_bytes(self.bytes)}"


@dataclass
class Report:
    """Noted while the sum is traced.

    Attributes:
        limit: elements that a table may have; None for no limit.
        order: the tables of the variables, in the order in which they go.
        largest: of all tables, those of values that depend on discrete sites among them.
    """

    limit: int | None
    order: list[Table] = field(default_factory=list)
    largest: Table | None = None

    def look(self, value: Lifted, where: Callable[[], str]) -> None:
        """Note a value that depends on discrete variables."""
        if value.variables:
            shape = tuple(np.shape(value.array))
            if self.largest is None or math.prod(shape) > self.largest.elements:
                sites = ", ".join(dict.fromkeys(v.site for v in value.variables))
                self._note(Table(f"values that depend on {sites} ({where()})", shape, jnp.result_type(value.array).itemsize))

    def sums(self, variable: Variable, shape: Sequence[int]) -> None:
        """Note the table from which a variable is summed out."""
        table = Table(variable.words, tuple(shape), jnp.result_type(float).itemsize)
        self.order.append(table)
        self._note(table)

    def _note(self, table: Table) -> None:
        if self.largest is None or table.elements > self.largest.elements:
            self.largest = table
        if self.limit is not None and table.elements > self.limit:
            raise ModelError(
                f"summing out the discrete sites needs a table of {' x '.join(map(str, table.shape))} = {table.elements:,} elements "
                f"({in_bytes(table.bytes)}; {table.what}), more than max_table = {self.limit:,}. Nothing was allocated. Give the sites "
                "fewer states or rows, sum out fewer of them (`lc.marginalize(model, sites=[...])`), or raise `max_table`."
            )


def in_bytes(number: int) -> str:
    for unit, size in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} bytes"
