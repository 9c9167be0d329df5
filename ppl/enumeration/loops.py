"""Loops over discrete states: hidden Markov chains of any order, as `jax.lax.scan` writes them.

Of a carry that depends on states only the last few matter: at each turn it is a table over the state one turn ago, two turns ago, and so
on. The first turns, until the carry has settled to these, are walked one by one ("peeled"). The others are walked once:

* where no carry that depends on states reads itself, all turns at once, the turn being one more axis of what changes with it;
* else by a scan that carries the tables.

What comes out is a `Chain`. It is summed when everything that reads its states after the loop is known (`marginal`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import lax

from ...transforms import ModelError
from ...transforms.jax_compat import JaxprEqn, bind, open_jaxpr, scan_layout
from ...transforms.source_lines import source_line
from ..primitives import site_names
from .carries import Plan, plan_of
from .chain import MEMORY, Chain
from .labels import Label, met
from .structural import result_shapes
from .turns import all_turns, before, counted, in_order, last, one_turn, separated, stacked
from .values import Lifted, aligned, full, mapped, plain

if TYPE_CHECKING:
    from .lifted import Walk

__all__ = ["scan"]


def scan(walk: "Walk", eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
    """The results of a scan; adds a chain to those of the program."""
    names = site_names(eqn)
    if not names and not any(x.variables for x in operands):
        arrays, dims = mapped(lambda *xs: bind(eqn, xs), [full(x) for x in operands])
        return [Lifted(a, dims, shape, (None,) * len(shape)) for a, shape in zip(arrays, result_shapes(eqn), strict=True)]
    num_consts, num_carry = scan_layout(eqn)
    xs = operands[num_consts + num_carry :]
    discrete = sorted({*(n for n in names if n in walk.shared.enumerated), *(v.site for x in operands for v in x.variables)})
    what, line = ", ".join(map(repr, discrete or names)), source_line(eqn, walk.around)
    _refuse(walk, xs, what, line)
    length, backwards = eqn.params["length"], eqn.params["reverse"]
    chain = Chain(what, line, length, Label(length, f"the turns of the loop ({line})"), backwards, walk.shared.lines)
    loop = _Loop(
        walk=replace(walk, chain=chain, around=(*walk.around, eqn)),
        chain=chain,
        body=open_jaxpr(eqn.params["jaxpr"])[0],
        consts=[*map(plain, open_jaxpr(eqn.params["jaxpr"])[1]), *operands[:num_consts]],
        xs=[in_order(x, backwards) for x in xs],
        inputs={n: in_order(walk.inputs[n], backwards) for n in names if n in walk.inputs},
        probes={n: in_order(walk.probes[n], backwards) for n in names if n in walk.probes},
    )
    carry = operands[num_consts : num_consts + num_carry]
    if length == 0:
        avals: list[Any] = [v.aval for v in eqn.outvars[num_carry:]]
        return [*carry, *(plain(jnp.zeros(aval.shape, aval.dtype)) for aval in avals)]
    walk.shared.chains.append(chain)
    return loop.run(carry)


def _refuse(walk: "Walk", xs: Sequence[Lifted], what: str, line: str) -> None:
    if walk.chain is not None:
        raise ModelError(
            f"site {what}: a `scan` ({line}) inside of another one that holds discrete sites cannot be summed out. Write both as one loop, "
            "or put what the inner one goes over into a plate."
        )
    for x in xs:
        if x.variables and x.labels[0] is not None:
            site = x.variables[0].site
            raise ModelError(
                f"site {site!r} ({walk.shared.lines[site]}) is discrete and to be summed out, and a `scan` ({line}) goes over its "
                "elements. Sample the states inside of the loop, one in each turn."
            )


@dataclass
class _Loop:
    """A scan that is being walked; turns are in the order in which they run.

    Attributes:
        body: its open jaxpr. consts: of the body, then of the loop. xs: what it goes over.
        inputs, probes: of the sites inside, stacked. results: what each peeled turn handed out.
    """

    walk: "Walk"
    chain: Chain
    body: Any
    consts: list[Lifted]
    xs: list[Lifted]
    inputs: dict[str, Lifted]
    probes: dict[str, Lifted]
    results: list[list[Lifted]] = field(default_factory=list)

    def run(self, carry: list[Lifted]) -> list[Lifted]:
        chain = self.chain
        operands = [*self.consts, *carry, *self.xs]
        plan = plan_of(self.body, len(self.consts), len(carry), [bool(x.variables) for x in operands], self.walk.shared.enumerated)
        while len(chain.peeled) < chain.length:
            if plan.at_once:
                found = self.at_once(plan, carry) if len(chain.peeled) >= plan.depth else None
            else:
                found = self.turn_by_turn(carry)
            if found is not None:
                return self.finished(*found)
            if len(chain.peeled) > MEMORY:
                raise chain.endless()
            carry = self.peeled(carry)
        return self.finished(carry, None)

    def peeled(self, carry: list[Lifted]) -> list[Lifted]:
        """Walk one turn by itself; the carry after it."""
        chain, turn = self.chain, len(self.chain.peeled)

        def variable(site: str, size: int, labels: tuple[Label, ...]) -> Any:
            chain.known[site] = (size, labels)
            return chain.at(site, turn)

        walk = replace(
            self.walk,
            inputs={n: one_turn(x, turn) for n, x in self.inputs.items()},
            probes={n: one_turn(x, turn) for n, x in self.probes.items()},
            variable=variable,
            factors=[],
        )
        outs = walk.run(self.body, [*self.consts, *carry, *(one_turn(x, turn) for x in self.xs)])
        chain.peeled.append(walk.factors)
        self.results.append([chain.handed(x, turn) for x in outs[len(carry) :]])
        return outs[: len(carry)]

    def later(self) -> "Walk":
        """The walk over all turns that are not peeled."""
        chain, start = self.chain, len(self.chain.peeled)
        turns = chain.later

        def variable(site: str, size: int, labels: tuple[Label, ...]) -> Any:
            chain.known[site] = (size, labels)
            return chain.lagged(site, 0)

        return replace(
            self.walk,
            inputs={n: all_turns(x, start, turns) for n, x in self.inputs.items()},
            probes={n: all_turns(x, start, turns) for n, x in self.probes.items()},
            variable=variable,
            turn=turns,
            factors=[],
        )

    def later_xs(self) -> list[Lifted]:
        return [all_turns(x, len(self.chain.peeled), self.chain.later) for x in self.xs]

    def at_once(self, plan: Plan, carry: list[Lifted]) -> tuple[list[Lifted], list[Lifted]]:
        """All turns that are left, as one axis: the carry after them, and what they hand out."""
        chain, walk, xs = self.chain, self.later(), self.later_xs()
        turns, first, num_carry = chain.later, len(self.consts), len(carry)
        invars = [*self.body.constvars, *self.body.invars]
        names = chain.entering()
        known = dict(zip([*invars[:first], *invars[first + num_carry :]], [*self.consts, *xs], strict=True))
        values = replace(walk, scored=False)
        for group in plan.order:
            begin = [carry[j].renamed(names) for j in group.leaves]
            if group.kind == "kept":
                found = begin
            elif group.kind == "counted":
                found = [counted(begin[0], group.step, turns)]
            elif group.kind == "scanned":
                found = self.scanned(group.leaves, known, begin)
            else:
                (made,) = values.given(known, self.body.eqns, [self.body.outvars[group.leaves[0]]])
                found = [before(begin[0], chain.aged(made), turns)]
            known.update({invars[first + j]: x for j, x in zip(group.leaves, found, strict=True)})
        entry = [known[v] for v in invars[first : first + num_carry]]
        chain.carried = {v for x in entry for v in x.variables if v in chain.own}
        outs = walk.run(self.body, [*self.consts, *entry, *xs])
        chain.factors = walk.factors
        return [chain.ended(chain.aged(last(x, turns))) for x in outs[:num_carry]], outs[num_carry:]

    def scanned(self, leaves: Sequence[int], known: dict[Any, Lifted], begin: list[Lifted]) -> list[Lifted]:
        """Carries that do not depend on states, at every later turn."""
        walk, turns, first = replace(self.later(), scored=False, turn=None), self.chain.later, len(self.consts)
        carries = [[*self.body.constvars, *self.body.invars][first + j] for j in leaves]
        names = list(known)
        arrays, at = separated((list(known.values()), walk.inputs), turns)

        def step(state: list[Any], now: Any) -> tuple[list[Any], list[Any]]:
            values, inputs = at(now)
            env = dict(zip(names, values, strict=True)) | dict(zip(carries, map(plain, state), strict=True))
            outs = replace(walk, inputs=inputs).given(env, self.body.eqns, [self.body.outvars[j] for j in leaves])
            return [jnp.asarray(full(o).array, a.dtype) for o, a in zip(outs, state, strict=True)], state

        _, all_before = lax.scan(step, [jnp.asarray(full(x).array) for x in begin], arrays, length=turns.size)
        return [Lifted(a, (turns,), x.shape, x.labels) for a, x in zip(all_before, begin, strict=True)]

    def turn_by_turn(self, carry: list[Lifted]) -> tuple[list[Lifted], list[Lifted]] | None:
        """All turns that are left by a scan over tables: as `at_once`; None if the carry has not settled yet."""
        chain, walk = self.chain, replace(self.later(), turn=None)
        turns, num_carry = chain.later, len(carry)
        names = chain.entering()
        entry = [x.renamed(names) for x in carry]
        arrays, at = separated((self.later_xs(), walk.inputs, walk.probes), turns)
        found: dict[str, Any] = {}

        def step(state: list[Any], now: Any) -> tuple[list[Any], Any]:
            xs, inputs, probes = at(now)
            one = replace(walk, inputs=inputs, probes=probes, factors=[])
            outs = one.run(self.body, [*self.consts, *(replace(e, array=a) for e, a in zip(entry, state, strict=True)), *xs])
            left = [chain.aged(x) for x in outs[:num_carry]]
            found.update(left=left, results=outs[num_carry:], factors=one.factors)
            fits = [_like(x, e) for x, e in zip(left, entry, strict=True)]
            return state if None in fits else fits, ([x.array for x in outs[num_carry:]], [f.array for f in one.factors])

        while True:  # until no axis of the carry changes from turn to turn
            state = [jnp.asarray(x.array) for x in entry]
            jax.eval_shape(step, state, jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), arrays))
            if any({*x.dims} != {*e.dims} for x, e in zip(found["left"], entry, strict=True)):
                return None
            wider = [_wider(e, x) for e, x in zip(entry, found["left"], strict=True)]
            if all(w.stored == e.stored and w.labels == e.labels for w, e in zip(wider, entry, strict=True)):
                break
            entry = wider
        ended, (results, factors) = lax.scan(step, state, arrays, length=turns.size)
        chain.factors = [
            replace(f, array=jnp.moveaxis(a, 0, len(f.variables)), labels=(turns, *f.labels))
            for f, a in zip(found["factors"], factors, strict=True)
        ]
        chain.carried = {v for x in entry for v in x.variables if v in chain.own}
        after = [chain.ended(replace(e, array=a)) for e, a in zip(entry, ended, strict=True)]
        return after, [replace(x, array=a, dims=(turns, *x.dims)) for x, a in zip(found["results"], results, strict=True)]

    def finished(self, carry: list[Lifted], results: list[Lifted] | None) -> list[Lifted]:
        """The carry after the loop, and what its turns handed out as stacks."""
        chain = self.chain
        count = len(self.results[0]) if self.results else len(results or [])
        later = [None] * count if results is None else [chain.handed(x, None) for x in results]
        stacks = [stacked([r[k] for r in self.results], later[k], chain.later, chain.turns, chain.backwards) for k in range(count)]
        return [*carry, *stacks]


def _like(x: Lifted, entry: Lifted) -> Any:
    """The array of a carry after a turn, with the axes that it had before; None if it cannot be."""
    if {*x.dims} != {*entry.dims}:
        return None
    array = aligned(x, entry.dims)
    lead = tuple(d.size for d in entry.dims)
    if any(s > e for s, e in zip(x.stored, entry.stored, strict=True)):
        return None
    return jnp.broadcast_to(array, (*lead, *entry.stored)).astype(jnp.result_type(entry.array))


def _wider(entry: Lifted, x: Lifted) -> Lifted:
    """A carry whose axes are thin only where they are so before and after a turn."""
    axes = [a for a, (s, e) in enumerate(zip(x.stored, entry.stored, strict=True)) if s > e]
    labels = tuple(met(pair) for pair in zip(entry.labels, x.labels, strict=True))
    return replace(full(entry, axes), labels=labels)
