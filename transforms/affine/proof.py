"""The proof that a program is affine in some of its inputs: a degree lattice over its jaxpr, with what each part reads.

A value is one of
    degree 0    v = o(z)                  a `Form` without coefficients
    degree 1    v = M(z) x + o(z)         a `Form`: for each leaf of x that M touches, the other inputs z that M reads; those that o reads
    degree 2    anything else             `Blocked`, with the equation that made it so
and an equation maps the values of its operands to that of its results by the table in `rules`. Values are ordered by what
they admit, joins go up, the lattice is finite: loops are walked to the fixpoint of their carry. A value may be placed higher than it
belongs (x * x / x), never lower.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..equations import run_jaxpr
from ..jax_compat import JaxprEqn, open_jaxpr, scan_layout
from .rules import PASSES, called_body, linear_slots

__all__ = ["Blocked", "Form", "Value", "carried", "equation", "join", "walk"]

Reads = frozenset[int]
_NOTHING: Reads = frozenset()


@dataclass(frozen=True)
class Form:
    """v = sum over leaves l of M_l(z) x_l + o(z).

    coefs: leaf -> the inputs z that M_l reads. A leaf that is absent has M_l = 0.
    reads: the inputs that the offset o reads.
    """

    coefs: Mapping[int, Reads] = field(default_factory=dict)
    reads: Reads = _NOTHING

    def holding(self, reads: Reads) -> "Form":
        """The same form chosen, scaled or repeated by values that read `reads`."""
        return Form({leaf: r | reads for leaf, r in self.coefs.items()}, self.reads | reads) if reads else self


@dataclass(frozen=True)
class Blocked:
    """Not affine, as far as the proof goes.

    eqn: the first equation that was no longer affine. reason: the end of the sentence "{primitive} ...".
    around: the equations that contain it, outermost first.
    """

    eqn: JaxprEqn
    reason: str
    around: tuple[JaxprEqn, ...] = ()


Value = Form | Blocked


def join(a: Value, b: Value) -> Value:
    """The least value that covers both: the result may be either."""
    if isinstance(a, Blocked) or a is b:
        return a
    if isinstance(b, Blocked):
        return b
    coefs = {leaf: a.coefs.get(leaf, _NOTHING) | b.coefs.get(leaf, _NOTHING) for leaf in (*a.coefs, *b.coefs)}
    return Form(coefs, a.reads | b.reads)


def walk(jaxpr: Any, operands: Sequence[Value], around: tuple[JaxprEqn, ...] = ()) -> list[Value]:
    """The values of the results of a (closed) jaxpr, given those of its inputs. Nothing is computed and nothing compiled.

    Args:
        jaxpr: a jaxpr or closed jaxpr; its constants are of degree 0 and read nothing.
        operands: one value per input.
        around: the equations that the jaxpr stands in, outermost first, for the message of a refusal.
    """
    inner, _ = open_jaxpr(jaxpr)
    constants = [Form()] * len(inner.constvars)
    return run_jaxpr(inner, constants, operands, lambda eqn, values: equation(eqn, values, around), lambda _: Form())


def carried(
    body: Any, consts: Sequence[Value], carry: Sequence[Value], xs: Sequence[Value], around: tuple[JaxprEqn, ...] = ()
) -> list[Value]:
    """The least carry that covers `carry` and that one more turn of a loop's body does not change."""
    carry = list(carry)
    while True:
        outs = walk(body, [*consts, *carry, *xs], around)
        grown = [join(c, o) for c, o in zip(carry, outs[: len(carry)], strict=True)]
        if all(isinstance(g, Blocked) if isinstance(c, Blocked) else g == c for g, c in zip(grown, carry, strict=True)):
            return carry
        carry = grown


def equation(eqn: JaxprEqn, operands: list[Value], around: tuple[JaxprEqn, ...] = ()) -> list[Value]:
    """The values of one equation's results."""
    called = called_body(eqn, operands)
    if called is not None:
        return walk(*called, (*around, eqn))
    name = eqn.primitive.name
    if name in _CONTROL:
        return _CONTROL[name](eqn, operands, around)
    if name in PASSES:
        return operands
    return [_first_order(eqn, operands, around)] * len(eqn.outvars)


def _first_order(eqn: JaxprEqn, operands: list[Value], around: tuple[JaxprEqn, ...]) -> Value:
    forms = []
    for v in operands:
        if isinstance(v, Blocked):
            return v
        forms.append(v)
    reads = _NOTHING.union(*(f.reads for f in forms))
    varies = [bool(f.coefs) for f in forms]
    if not any(varies):
        return Form({}, reads)
    slots = linear_slots(eqn, varies)
    if isinstance(slots, str):
        return Blocked(eqn, slots, around)
    held = _NOTHING.union(*(f.reads for i, f in enumerate(forms) if i not in slots))
    coefs: dict[int, Reads] = {}
    for f in forms:
        for leaf, r in f.coefs.items():
            coefs[leaf] = coefs.get(leaf, held) | r
    return Form(coefs, reads)


def _scan(eqn: JaxprEqn, operands: list[Value], around: tuple[JaxprEqn, ...]) -> list[Value]:
    num_consts, num_carry = scan_layout(eqn)
    consts, carry, xs = operands[:num_consts], operands[num_consts : num_consts + num_carry], operands[num_consts + num_carry :]
    body, inside = eqn.params["jaxpr"], (*around, eqn)
    carry = carried(body, consts, carry, xs, inside)
    return [*carry, *walk(body, [*consts, *carry, *xs], inside)[num_carry:]]


def _while(eqn: JaxprEqn, operands: list[Value], around: tuple[JaxprEqn, ...]) -> list[Value]:
    num_cond, num_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    inside = (*around, eqn)
    carry = carried(eqn.params["body_jaxpr"], operands[num_cond : num_cond + num_body], operands[num_cond + num_body :], (), inside)
    goes_on = walk(eqn.params["cond_jaxpr"], [*operands[:num_cond], *carry], inside)[0]
    return _chosen(eqn, goes_on, carry, "goes on for a number of turns that depends on the argument", around)


def _cond(eqn: JaxprEqn, operands: list[Value], around: tuple[JaxprEqn, ...]) -> list[Value]:
    branches = [walk(b, operands[1:], (*around, eqn)) for b in eqn.params["branches"]]
    joined = list(branches[0])
    for other in branches[1:]:
        joined = [join(a, b) for a, b in zip(joined, other, strict=True)]
    return _chosen(eqn, operands[0], joined, "chooses its branch by a value that depends on the argument", around)


def _chosen(eqn: JaxprEqn, choice: Value, outs: list[Value], reason: str, around: tuple[JaxprEqn, ...]) -> list[Value]:
    """Results that are what they are for any value of `choice`, which must therefore be of degree 0."""
    if isinstance(choice, Blocked):
        return [choice] * len(outs)
    if choice.coefs:
        return [Blocked(eqn, reason, around)] * len(outs)
    return [o if isinstance(o, Blocked) else o.holding(choice.reads) for o in outs]


_CONTROL = {"cond": _cond, "scan": _scan, "while": _while}
