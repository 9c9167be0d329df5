"""A chain: what a loop over discrete states adds to the density, and the sum over its states, turn by turn.

    alpha_t(z_t ..) = log sum over the states that no later turn needs of exp(alpha_{t-1} + factors of turn t)

It is the forward algorithm, for chains of any order, several that are coupled, and any number of rows side by side. Its transpose with
another linearization of log sum exp is smoothing, Viterbi or backward sampling (`choices`).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax.numpy as jnp
from jax import lax

from ...transforms import ModelError
from ...transforms.graph import united
from .elimination import eliminate
from .factor import Factor, crossing, joined, laid_out, summed_rows, with_label
from .labels import Label
from .report import Report
from .values import Lifted, Variable

__all__ = ["MEMORY", "Chain"]

MEMORY = 8  # turns that a carry may look back


@dataclass(eq=False)
class Chain:
    """See the module.

    Attributes:
        what, line: its sites and its line, for messages. length: number of turns. turns: the label of the axis of all turns of what the
            loop hands out. lines: the user's line of each site.
        backwards: whether the scan runs from its end; factors are in the order in which turns run.
        peeled: the factors of each of the first turns. factors: of all later ones, whose label is `later`.
        carried: the variables of earlier turns that the carry brings.
        known: by site, its number of states and the labels of its axes.
    """

    what: str
    line: str
    length: int
    turns: Label
    backwards: bool
    lines: Mapping[str, str]
    peeled: list[list[Factor]] = field(default_factory=list)
    factors: list[Factor] = field(default_factory=list)
    carried: set[Variable] = field(default_factory=set)
    known: dict[str, tuple[int, tuple[Label, ...]]] = field(default_factory=dict)
    _later: Label | None = None
    _variables: dict[tuple[str, str, int], Variable] = field(default_factory=dict)

    @property
    def later(self) -> Label:
        """The label of the turns that are not peeled."""
        size = self.length - len(self.peeled)
        if self._later is None or self._later.size != size:
            self._later = Label(size, self.turns.words)
            self._variables = {k: v for k, v in self._variables.items() if k[0] != "lag"}
        return self._later

    def _variable(self, kind: str, site: str, number: int, labels: tuple[Label, ...], words: str) -> Variable:
        key = (kind, site, number)
        if key not in self._variables:
            self._variables[key] = Variable(site, self.known[site][0], labels, words, self.lines[site])
        return self._variables[key]

    def at(self, site: str, turn: int) -> Variable:
        """The state at one of the peeled turns."""
        return self._variable("peeled", site, turn, self.known[site][1], f"{site}, turn {turn}")

    def lagged(self, site: str, lag: int) -> Variable:
        """The state `lag` turns ago, at every later turn."""
        words = f"{site}, each turn" if lag == 0 else f"{site}, {lag} turns before" if lag > 1 else f"{site}, the turn before"
        return self._variable("lag", site, lag, (self.later, *self.known[site][1]), words)

    def final(self, site: str, lag: int) -> Variable:
        """The state at the last turn (lag 1), or before it."""
        return self._variable("final", site, lag, self.known[site][1], f"{site}, turn {self.length - lag}")

    def all(self, site: str) -> Variable:
        """The states of all turns, as they are handed out."""
        return self._variable("all", site, 0, (self.turns, *self.known[site][1]), f"{site}, all turns")

    @property
    def own(self) -> set[Variable]:
        return set(self._variables.values())

    @property
    def met(self) -> set[Variable]:
        """The chain's variables, and others that its factors read: none of them can go before the chain."""
        return self.own | {v for f in self._every for v in f.variables}

    @property
    def _every(self) -> list[Factor]:
        return [*self.factors, *(f for turn in self.peeled for f in turn)]

    def _named(self, kind: str) -> dict[Variable, tuple[str, int]]:
        return {v: (site, number) for (k, site, number), v in self._variables.items() if k == kind}

    @property
    def handed_out(self) -> set[Variable]:
        return set(self._named("all"))

    @property
    def sites(self) -> set[str]:
        """The sites inside."""
        return {name for f in self._every for name in f.sites}

    @property
    def rows(self) -> Label:
        """The label of the axis of all turns, as what is left when the chain is summed has it."""
        return self.turns if self.peeled else self.later

    def without(self, sites: Iterable[str]) -> "Chain":
        """The chain without the densities of some sites."""
        gone = {*sites}
        peeled = [[f for f in turn if not f.sites & gone] for turn in self.peeled]
        return replace(self, peeled=peeled, factors=[f for f in self.factors if not f.sites & gone])

    def entering(self) -> dict[Variable, Variable]:
        """The states of peeled turns, as the first later turn sees them."""
        return {v: self.lagged(site, len(self.peeled) - turn) for v, (site, turn) in self._named("peeled").items()}

    def aged(self, x: Lifted) -> Lifted:
        """What a turn leaves, as the next one sees it."""
        names = {}
        for v, (site, lag) in self._named("lag").items():
            if any(v is own for own in x.variables):
                if lag + 1 > MEMORY:
                    raise self.endless()
                names[v] = self.lagged(site, lag + 1)
        return x.renamed(names)

    def ended(self, x: Lifted) -> Lifted:
        """What the last turn leaves, aged, as it is seen after the loop."""
        return x.renamed({v: self.final(site, lag) for v, (site, lag) in self._named("lag").items() if lag})

    def handed(self, x: Lifted, turn: int | None) -> Lifted:
        """What a turn hands out: it may depend on its own states."""
        kind, number = ("lag", 0) if turn is None else ("peeled", turn)
        names = {v: self.all(site) for v, (site, n) in self._named(kind).items() if n == number}
        for v in x.variables:
            if v in self.own and v not in names:
                raise ModelError(
                    f"site {v.site!r}: the `scan` ({self.line}) hands out values that depend on the discrete state of an earlier turn. "
                    "Hand out the state of each turn itself, and compute from it inside of the loop what needs two of them."
                )
        return x.renamed(names)

    def endless(self) -> ModelError:
        return ModelError(
            f"site {self.what}: what the `scan` ({self.line}) carries depends on the discrete states of more and more turns (a running "
            "count, a state that reads its own past), so that its table would grow with every turn. Carry the states of the last turns "
            f"only (at most {MEMORY}), or make what is counted a part of the state."
        )

    def summed(self, others: Sequence[Factor], sum_over: Any, report: Report) -> list[Factor]:
        """The factors that are left of the chain's own and of those `others` that read the states that it handed out."""
        first, later = [f for turn in self.peeled for f in turn], list(self.factors)
        for factor in others:
            early, late = self._divided(factor)
            first += early
            later += late
        if len(self.peeled) == self.length:
            return first
        names = self.entering()
        entering = {v for v, w in names.items() if w in self.carried}
        peeled = set(self._named("peeled"))
        left, stuck = eliminate(first, lambda v: v in peeled and v not in entering, sum_over, report.sums)
        if stuck:
            raise crossing(left)
        return self._forward([f.renamed(names) for f in left], later, sum_over, report)

    def _divided(self, factor: Factor) -> tuple[list[Factor], list[Factor]]:
        """A factor over the states of all turns, as factors of the peeled turns, and one of the later ones."""
        factor = with_label(factor, self.turns)
        n = len(factor.variables)
        thin = factor.array.shape[n] == 1 and self.length > 1
        array = jnp.flip(factor.array, n) if self.backwards else factor.array
        everywhere, count = self._named("all"), len(self.peeled)

        def taken(at: Any) -> Any:
            return array[(*(slice(None),) * n, 0 if thin and isinstance(at, int) else slice(None) if thin else at)]

        early = []
        for turn in range(count):
            names = {v: self.at(site, turn) for v, (site, _) in everywhere.items()}
            early.append(replace(factor, array=taken(turn), labels=factor.labels[1:]).renamed(names))
        if count == self.length:
            return early, []
        names = {v: self.lagged(site, 0) for v, (site, _) in everywhere.items()}
        late = replace(factor, array=taken(slice(count, None)), labels=(self.later, *factor.labels[1:])).renamed(names)
        return early, [late]

    def _forward(self, entering: list[Factor], later: list[Factor], sum_over: Any, report: Report) -> list[Factor]:
        """Sum over the later turns, each group of coupled chains by itself."""
        result: list[Factor] = []
        lags = self._named("lag")
        later = [with_label(summed_rows(f), self.later) if any(v in lags for v in f.variables) else f for f in later]
        for names in _coupled([*entering, *later], lags):
            mine = [f for f in later if any(v in lags and lags[v][0] in names for v in f.variables)]
            begin = [f for f in entering if any(v in lags and lags[v][0] in names for v in f.variables)]
            carried = sorted((v for v in self.carried if lags[v][0] in names), key=lambda v: lags[v])
            if carried:
                result += self._turn_by_turn(begin, mine, carried, sum_over, report)
            else:
                left, stuck = eliminate([*begin, *mine], lambda v: v in lags, sum_over, report.sums)
                if stuck:
                    raise crossing(left)
                result += left
        result += [f for f in [*entering, *later] if not any(v in lags for v in f.variables)]
        return result

    def _turn_by_turn(
        self, begin: list[Factor], later: list[Factor], carried: list[Variable], sum_over: Any, report: Report
    ) -> list[Factor]:
        """The forward pass of one group of chains; the last table is one over the states at the end."""
        lags = self._named("lag")
        outer = list(dict.fromkeys(v for f in [*begin, *later] for v in f.variables if v not in lags))
        labels = list({id(label.root): label.root for v in carried for label in v.labels if label is not self.later}.values())
        variables = [*carried, *outer]
        older = {v: self.lagged(site, lag + 1) for v, (site, lag) in lags.items() if lag < MEMORY}
        kept = {v for v, w in older.items() if w in self.carried}
        alpha = laid_out(joined(begin), variables, labels)
        changing = [f for f in later if f.array.shape[len(f.variables)] == self.later.size]
        always = [f for f in later if f.array.shape[len(f.variables)] != self.later.size]
        if self.later.size == 1:
            changing, always = later, []
        rest: list[Factor] = []
        keys, at_turn = sum_over.for_turns(self.later.size)

        def step(alpha: Any, now: Any) -> tuple[Any, Any]:
            arrays, key = now
            factors = [Factor(alpha, tuple(variables), tuple(labels))]
            factors += [replace(f, array=a, labels=f.labels[1:]) for f, a in zip(changing, arrays, strict=True)]
            factors += [replace(f, array=jnp.squeeze(f.array, len(f.variables)), labels=f.labels[1:]) for f in always]
            left, stuck = eliminate(factors, lambda v: v in lags and v not in kept, at_turn(key), report.sums)
            if stuck:
                raise crossing(left)
            states = joined([f for f in left if any(v in kept for v in f.variables)]).renamed(older)
            rest[:] = [f for f in left if not any(v in kept for v in f.variables)]
            return laid_out(states, variables, labels).astype(alpha.dtype), [f.array for f in rest]

        scanned = [jnp.moveaxis(f.array, len(f.variables), 0) for f in changing]
        alpha, arrays = lax.scan(step, alpha, (scanned, keys), length=self.later.size)
        ended = {v: self.final(site, lag) for v, (site, lag) in lags.items() if lag}
        sites = frozenset().union(*(f.sites for f in [*begin, *later]))
        result = [Factor(alpha, tuple(variables), tuple(labels), sites).renamed(ended)]
        return result + [replace(f, array=a.sum(0)) for f, a in zip(rest, arrays, strict=True)]


def _coupled(factors: Sequence[Factor], lags: dict[Variable, tuple[str, int]]) -> list[frozenset[str]]:
    """The sites of a loop, in groups that meet in a factor."""
    return united(names for f in factors if (names := {lags[v][0] for v in f.variables if v in lags}))
