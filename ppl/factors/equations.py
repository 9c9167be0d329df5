"""A model's equations laid flat: calls inlined, observed and deterministic sites replaced by their values, latent sites left standing.

Everything that is asked of a model here (what its likelihood is computed from, and how) is asked of this one list. Any value of the
model can be computed from it, given the data and an unconstrained position, by running just the equations that it needs.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from ...transforms import ModelError
from ...transforms.affine.rules import called_body
from ...transforms.equations import dependents, needed_equations, reads_any, run_equations, run_jaxpr
from ...transforms.jax_compat import JaxprEqn, Literal, Var, equation_context, open_jaxpr
from ...transforms.source_lines import equation_frames
from ..interpreters import site_value
from ..missing import Missing
from ..primitives import has_sites, is_site, site_names
from ..program import ModelProgram
from ..spec import Spec
from ..walker import run_equation
from .hoist import Hoist

__all__ = ["ModelEquations", "size_of"]


@dataclass(frozen=True, eq=False)
class ModelEquations:
    """The flat program of a model, and what its target, one observed site, reads.

    Attributes:
        operands: the atoms of the target's equation, in order.
        equations: flat, in program order. data: the variables of the data. constants: the values of what tracing lifted out.
        sources: latent variables, one for each row, that no site makes.
        missing: which elements of partly given sites are missing.
    """

    operands: tuple[Any, ...]
    equations: tuple[JaxprEqn, ...]
    data: tuple[Var, ...]
    constants: Mapping[Var, Any]
    sources: tuple[Var, ...] = ()
    missing: Missing = field(default_factory=Missing)

    @classmethod
    def of(cls, program: ModelProgram, target: str) -> "ModelEquations | None":
        """The flat program, or None if the target stands inside a loop or a branch."""
        inner, _ = open_jaxpr(program.jaxpr)

        def visit(eqn: JaxprEqn, operands: list[Any], around: JaxprEqn | None = None) -> list[Any]:
            if is_site(eqn):
                spec = eqn.params["spec"]
                if spec.name == target:
                    read.extend(operands)
                if not spec.latent:
                    return [operands[0 if spec.kind == "deterministic" else spec.num_leaves]]
            line = _with_line(eqn, around)
            called = called_body(eqn, operands)
            if called is not None:
                return run_jaxpr(*open_jaxpr(called[0]), called[1], functools.partial(visit, around=line))
            with equation_context(line):
                return hoist(eqn, operands)

        def run(*data: Any) -> list[Any]:
            run_jaxpr(inner, data, [], visit)
            return read

        read: list[Any] = []
        hoist = Hoist(math.prod(program.sites[target].shape))
        flat = jax.make_jaxpr(run)(*program.data)
        if not read:
            return None
        jaxpr, values = open_jaxpr(flat)
        constants = dict(zip(jaxpr.constvars, values, strict=True))
        return cls(tuple(jaxpr.outvars), tuple(jaxpr.eqns), tuple(jaxpr.invars), constants, missing=program.missing)

    @functools.cached_property
    def definition(self) -> dict[Var, JaxprEqn]:
        """The equation that makes a variable; data have none."""
        return {v: eqn for eqn in self.equations for v in eqn.outvars}

    @functools.cached_property
    def latent(self) -> set[Var]:
        """What depends on a latent site."""
        return dependents(self.equations, self.sources)

    @functools.cached_property
    def reads_arrays(self) -> set[Var]:
        """What is computed from data of more than one element without a latent site between: where rows may enter."""
        found: set[Var] = {v for v in (*self.data, *self.constants, *self.sources) if size_of(v) > 1}
        for eqn in self.equations:
            if not has_sites(eqn) and reads_any(eqn, found):
                found.update(eqn.outvars)
        return found

    def is_latent(self, atom: Any) -> bool:
        return not isinstance(atom, Literal) and atom in self.latent

    def values(
        self, atoms: Sequence[Any], data: Sequence[Any], position: Mapping[str, Any] | None = None, given: Mapping[Var, Any] | None = None
    ) -> list[Any]:
        """The values of atoms, from the data, a position by site (unconstrained) and variables that are given."""
        given = given or {}
        env: dict[Any, Any] = {**self.constants, **dict(zip(self.data, data, strict=True)), **given}

        def rule(spec: Spec, operands: Sequence[Any], u: Any) -> tuple[Any, Any]:
            return site_value(spec, operands, self.missing.spread_at(spec, operands, u)), None

        def apply(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
            looped = [] if is_site(eqn) else [n for n in site_names(eqn) if self.missing.counts.get(n)]
            if looped:
                raise ModelError(
                    f"site {looped[0]!r}: a likelihood whose rows are subsampled depends on missing values of a loop; use NUTS."
                )
            with equation_context(eqn):
                outs = run_equation(eqn, operands, self.missing.rule(rule), position or {})[0]
            return [given.get(v, out) for v, out in zip(eqn.outvars, outs, strict=True)]

        return run_equations(needed_equations(self.equations, atoms, given), env, atoms, apply)

    def sites_read(self, atom: Any) -> list[str]:
        """The names of the latent sites that a value is computed from, sorted."""
        return sorted({e.params["spec"].name for e in needed_equations(self.equations, [atom]) if is_site(e)})

    def data_read(self, atoms: Sequence[Any], given: Mapping[Var, Any]) -> list[int]:
        """The numbers of the data that atoms are computed from, where some variables are given."""
        read = {x for eqn in needed_equations(self.equations, atoms, given) for x in eqn.invars if not isinstance(x, Literal)}
        read.update(x for x in atoms if not isinstance(x, Literal))
        return [i for i, v in enumerate(self.data) if v in read and v not in given]


def _with_line(eqn: JaxprEqn, around: JaxprEqn | None) -> JaxprEqn:
    """The equation that knows the user's line: `eqn`, or the call `around` it if JAX had traced the callee before, from another line."""
    if around is None:
        return eqn
    own, outer = equation_frames(eqn), equation_frames(around)
    return eqn if own and (not outer or outer[0][:2] in [frame[:2] for frame in own]) else around


def size_of(atom: Any) -> int:
    """Number of elements."""
    return int(np.prod(atom.aval.shape, dtype=np.int64))
