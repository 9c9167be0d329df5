"""The sum over one discrete variable after another.

A variable goes when all that it meets stand in at most the rows that it stands in itself:

    table(others) = log sum_z exp(sum of the factors that have z),    cheapest first,

and a label of which no variable of a factor has an axis is summed over, which is the product over independent rows. A variable that
meets one of other rows has to wait until that one is gone; if none can go, the sum has no tables smaller than all rows together.

Where what is left is a row of variables, each with factors of the same form and met by the next, as a Python loop over states leaves it,
all steps but the first are one loop: what compiles is one of them.

Source: Obermeyer, Bingham, Jankowiak, Pradhan, Chiu, Rush, Goodman (2019), Tensor variable elimination for plated factor graphs.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax.numpy as jnp
from jax import lax

from .factor import Factor, crossing, joined, laid_out, sizes_of, summed_rows
from .labels import distinct
from .values import Variable

__all__ = ["Sum", "eliminate"]

_SHORTEST = 8  # steps of a run; fewer compile as fast one by one


class Sum(Protocol):
    """log sum exp over one axis of a table, or what takes its place."""

    def __call__(self, x: Any, axis: int, /) -> Any: ...

    def for_turns(self, count: int, /) -> "tuple[Any, Callable[[Any], Sum]]":
        """What differs from turn to turn of a loop, to be scanned over, and the sum of one turn."""
        ...


Look = Callable[[Variable, tuple[int, ...]], None]
"""Told of each variable and the shape of its table, before that is made."""


def eliminate(
    factors: Iterable[Factor], over: Callable[[Variable], bool], sum_over: Sum, look: Look
) -> tuple[list[Factor], list[Variable]]:
    """Sum over all variables that `over` is true of, as far as that can be done.

    Returns:
        The factors that are left, and the variables that cannot go.
    """
    left = [summed_rows(f) for f in factors]
    while True:
        found = {v: None for f in left for v in f.variables if over(v)}
        ready = [(math.prod(sizes_of(group)), v.words, v) for v in found if (group := _group(left, v)) and _may_go(v, group)]
        if not ready:
            return left, list(found)
        v = min(ready, key=lambda r: r[:2])[2]
        group = _group(left, v)
        if not all(distinct(f.labels) for f in group):
            raise crossing(group)
        look(v, sizes_of(group))
        left = [f for f in left if not any(f is g for g in group)]
        rest = summed_rows(_without(v, joined(group), sum_over))
        run = next((r for w in rest.variables if (r := _run(w, rest, left, over))), None)
        if run is not None:
            left = [f for f in left if not any(f is g for step in run.steps for g in step)]
            rest = summed_rows(run.summed(sum_over, look))
        left.append(rest)


def _group(factors: Sequence[Factor], v: Variable) -> list[Factor]:
    return [f for f in factors if any(own is v for own in f.variables)]


def _may_go(v: Variable, group: Sequence[Factor]) -> bool:
    own = {id(r) for label in v.labels for r in label.reached}
    return all(id(label.root) in own for f in group for u in f.variables for label in u.labels)


def _without(v: Variable, table: Factor, sum_over: Sum) -> Factor:
    axis = next(i for i, own in enumerate(table.variables) if own is v)
    return replace(table, array=sum_over(table.array, axis), variables=tuple(own for own in table.variables if own is not v))


@dataclass(frozen=True)
class _Run:
    """A row of variables that are summed out one after another.

    Attributes:
        variables: z_1 .. z_{n+1}, of which the last stays. outer: others that the tables have.
        before: the factor m_1 over z_1 and `outer`, or some of them.
        steps: by z_i, its factors, but those that it shares with z_{i-1}; those of one form at the same place.
    """

    variables: tuple[Variable, ...]
    outer: tuple[Variable, ...]
    before: Factor
    steps: tuple[tuple[Factor, ...], ...]

    def summed(self, sum_over: Sum, look: Look) -> Factor:
        """m_{n+1}, where m_{i+1}(z_{i+1}) = log sum over z_i of exp(m_i(z_i) + the factors of step i)."""
        (first, second), outer = self.variables[:2], self.outer
        labels = [label.root for label in first.labels]
        keys, at_step = sum_over.for_turns(len(self.steps))
        forms = self.steps[0]
        columns = [[step[k].array for step in self.steps] for k in range(len(forms))]
        changing = [jnp.stack(arrays) for arrays in columns]
        dtype = jnp.result_type(self.before.array, *(f.array for f in forms))
        alpha = Factor(laid_out(self.before, (first, *outer), labels).astype(dtype), (first, *outer), tuple(labels))
        for v in self.variables[:-1]:
            look(v, sizes_of([alpha, *forms]))

        def step(array: Any, now: Any) -> tuple[Any, None]:
            arrays, key = now
            table = joined([replace(alpha, array=array), *(replace(f, array=a) for f, a in zip(forms, arrays, strict=True))])
            left = _without(first, table, at_step(key)).renamed({second: first})
            return laid_out(left, alpha.variables, labels).astype(dtype), None

        array, _ = lax.scan(step, alpha.array, (changing, keys), length=len(self.steps))
        sites = self.before.sites.union(*(f.sites for step in self.steps for f in step))
        return replace(alpha, array=array, sites=sites).renamed({first: self.variables[-1]})


def _run(first: Variable, before: Factor, factors: Sequence[Factor], over: Callable[[Variable], bool]) -> _Run | None:
    """The run that begins with `first`, of which `before` is what is left of those before it. None: there is none that is long enough."""
    rows = {id(label.root) for label in first.labels}
    outer = tuple(v for v in before.variables if v is not first)
    if any(id(label.root) not in rows for v in outer for label in v.labels):
        return None
    variables, steps, form = [first], [], None
    while over(variables[-1]):
        v = variables[-1]
        mine = [f for f in _group(factors, v) if not any(f is g for g in (steps[-1] if steps else ()))]
        others = list(dict.fromkeys(u for f in mine for u in f.variables if u is not v and not any(u is o for o in outer)))
        if len(others) != 1 or any(others[0] is u for u in variables) or others[0].size != v.size:
            break
        after = others[0]
        inside = all(distinct(f.labels) and all(id(label.root) in rows for label in f.labels) for f in mine)
        if not inside or {id(label.root) for label in after.labels} != rows:
            break
        roles = {id(v): 0, id(after): 1}
        forms = [(tuple(roles.get(id(u), id(u)) for u in f.variables), *_shape(f)) for f in mine]
        order = sorted(range(len(mine)), key=forms.__getitem__)
        if form is not None and [forms[i] for i in order] != form:
            break
        form = [forms[i] for i in order]
        steps.append(tuple(mine[i] for i in order))
        variables.append(after)
    return _Run(tuple(variables), outer, before, tuple(steps)) if len(steps) >= _SHORTEST else None


def _shape(factor: Factor) -> tuple[Any, ...]:
    return tuple(id(label.root) for label in factor.labels), factor.array.shape, str(factor.array.dtype)
