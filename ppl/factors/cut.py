"""Where a model is cut in two: coefficients, a few numbers computed from the latent variables, and the rows, affine in them.

    position  --any function-->  coefficients  --affine, matrix made of data alone-->  a value with a row axis

The cut is looked for from the rows backwards. Every equation that is linear in what depends on a latent site can be on the right of
the cut; one that is not has to be on its left, and so must not make rows of its own. Of the cuts that are possible the one with
the fewest coefficients is taken: beta rather than the (mu, tau * z) that it is made of. The cut is a proposal: that what lies on its
right is affine is then proved by `transforms.affine_in`.
"""

from dataclasses import dataclass, field
from typing import Any

from ...transforms.affine.proof import Blocked, Form, Value, equation
from ...transforms.jax_compat import JaxprEqn, Var
from ...transforms.source_lines import source_line
from ..primitives import has_sites
from .equations import ModelEquations, size_of

__all__ = ["Cuts", "Obstacle"]


@dataclass(frozen=True)
class Obstacle:
    """Why a value is no affine function of a few coefficients: an equation, and the end of the sentence "{primitive} ..."."""

    eqn: JaxprEqn
    reason: str

    def __str__(self) -> str:
        return f"`{self.eqn.primitive.name}` ({source_line(self.eqn)}) {self.reason}"


Coefficients = dict[Var, None]
"""Variables, in the order in which they are met."""


@dataclass(eq=False)
class Cuts:
    """The cuts of one model.

    num_rows: tells rows from coefficients. slack: how many times as many coefficients as possible there may be, if that leaves more of
    the model's equations on their side.
    """

    model: ModelEquations
    num_rows: int
    slack: int = 1
    known: dict[Var, Coefficients | Obstacle] = field(default_factory=dict)

    def of(self, atom: Any) -> Coefficients | Obstacle:
        """The coefficients that a value is affine in, or what stands in the way."""
        if not self.model.is_latent(atom):
            return {}
        if atom not in self.known:
            self.known[atom] = self._find(atom)
        return self.known[atom]

    def linear(self, eqn: JaxprEqn) -> str | None:
        """None if an equation is linear in what depends on a latent site, or the end of the sentence "{primitive} ..."."""
        if has_sites(eqn):
            return "draws a latent variable"
        forms: list[Value] = [Form({0: frozenset()}) if self.model.is_latent(x) else Form() for x in eqn.invars]
        for value in equation(eqn, forms):
            if isinstance(value, Blocked):
                return value.reason
        return None

    def _find(self, var: Var) -> Coefficients | Obstacle:
        eqn = self.model.definition.get(var)
        if eqn is None:
            return {var: None}
        reason = self.linear(eqn)
        if reason is not None:
            return {var: None} if self._few(var) else Obstacle(eqn, reason)
        union: Coefficients = {}
        for x in eqn.invars:
            below = self.of(x)
            if isinstance(below, Obstacle):
                return {var: None} if self._few(var) else below
            union |= below
        return {var: None} if self._few(var) and size_of(var) <= self.slack * sum(map(size_of, union)) else union

    def _few(self, var: Var) -> bool:
        """Whether a value has no rows: it has fewer elements than there are rows, or is made of latent variables alone."""
        return size_of(var) < self.num_rows or var not in self.model.reads_arrays
