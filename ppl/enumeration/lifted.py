"""The lifted walk: a model's jaxpr on values that are tables over the states of its discrete sites.

An equation takes the discrete variables of all its operands and runs for every state of them, by nested `vmap` of itself: JAX's batching
rules do the arithmetic. What a site contributes to the density (`sites`) becomes factors, which are summed afterwards (`marginal`). Beside
the arithmetic the walk carries labels (`labels`); where one that is needed gets lost, elements of a site are mixed, and the model is
refused with the line.

Sharp edges: a `custom_jvp` function is bound as a whole, so that it keeps its derivative; a `cond` on a discrete value computes all
branches; `while` cannot hold one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...transforms import ModelError
from ...transforms.equations import CALLS, CHECKPOINTS, ELEMENTWISE, body_of, needed_equations
from ...transforms.jax_compat import JaxprEqn, Literal, bind, open_jaxpr
from ...transforms.numpy_rules import NUMPY_RULES
from ...transforms.source_lines import source_line
from ..primitives import has_sites, is_site, site_names
from ..spec import Spec
from .chain import Chain
from .factor import Factor
from .labels import Label, distinct
from .loops import scan
from .report import Report
from .sites import needed_values, operands_of_value, site, value_of
from .structural import by_rule, result_shapes
from .values import Lifted, Variable, elementwise, full, mapped, plain

__all__ = ["Shared", "Walk"]

_INLINED = {*CALLS, *CHECKPOINTS}
_FEW = 1000  # numbers that are computed while the program is traced


@dataclass
class Shared:
    """What all walks over one program have in common.

    Attributes:
        lines: the user's line of every site. enumerated: the names of the sites that are summed out.
        absent, packed: of sites without elements, and of those of missing data that have just the missing ones.
        unconstrained: whether given values are unconstrained.
        report: what is noted of the tables.
        weighted: whether `handlers.scale` counts.
        rows: by observed site, the labels of its log probability's axes.
        chains: the loops whose states remain to be summed out. supports: the states of each site, in order.
        axes: the labels of the axes of the sites met, by site and axis. traces: see `Walk.traced`.
    """

    lines: Mapping[str, str]
    enumerated: frozenset[str]
    absent: set[str]
    packed: set[str]
    unconstrained: bool
    report: Report
    supports: Mapping[str, np.ndarray]
    weighted: bool = True
    rows: dict[str, tuple[Label | None, ...]] = field(default_factory=dict)
    chains: list[Any] = field(default_factory=list)
    axes: dict[tuple[str, int], Label] = field(default_factory=dict)
    traces: dict[Any, tuple[Any, list[Any]]] = field(default_factory=dict)

    def axis(self, site: str, number: int, size: int) -> Label:
        return self.axes.setdefault((site, number), Label(size, f"axis {number} of {site!r}"))


@dataclass(frozen=True)
class Walk:
    """One walk: over the whole program, or over one turn of a loop.

    Attributes:
        shared: see there.
        inputs: by site, the given values of what is not enumerated; plain lifted values.
        variable: (site, number of states, labels of its axes) -> its variable here.
        probes: by site, a table that is added to the factors of its states, of logical shape (states, *shape of the site).
        turn: the turns of the loop around, where all are walked at once. chain: that loop's, or that of the turn that is walked.
        factors: of the sites met.
        around: the equations around, outermost first.
        scored: whether sites contribute factors; without, the walk is for values only.
    """

    shared: Shared
    inputs: Mapping[str, Lifted]
    variable: Callable[[str, int, tuple[Label, ...]], Variable]
    probes: Mapping[str, Lifted] = field(default_factory=dict)
    turn: Label | None = None
    chain: Chain | None = None
    factors: list[Factor] = field(default_factory=list)
    around: tuple[JaxprEqn, ...] = ()
    scored: bool = True

    def run(self, jaxpr: Any, args: Sequence[Lifted]) -> list[Lifted]:
        """The results of an open jaxpr, given its constants and then its inputs."""
        env = dict(zip([*jaxpr.constvars, *jaxpr.invars], args, strict=True))
        if not self.scored:
            return self.given(env, jaxpr.eqns, jaxpr.outvars)
        for eqn in needed_equations(jaxpr.eqns, jaxpr.outvars, also=has_sites):
            env.update(zip(eqn.outvars, self.equation(eqn, [_read(env, x) for x in eqn.invars]), strict=True))
        return [_read(env, x) for x in jaxpr.outvars]

    def given(self, known: Mapping[Any, Lifted], equations: Sequence[JaxprEqn], outs: Sequence[Any]) -> list[Lifted]:
        """The values of atoms, computed from `known` variables without the density of any site."""
        env, enumerated = dict(known), self.shared.enumerated
        for eqn in needed_values(equations, outs, enumerated):
            if is_site(eqn):
                operands = [_read(env, x) for x in operands_of_value(eqn, enumerated)]
                env[eqn.outvars[0]] = value_of(self, eqn.params["spec"], operands)
            else:
                env.update(zip(eqn.outvars, self.equation(eqn, [_read(env, x) for x in eqn.invars]), strict=True))
        return [_read(env, x) for x in outs]

    def traced(self, what: str, spec: Spec, function: Callable[..., Any], *args: Lifted) -> list[Lifted]:
        """function(*arrays of logical shape) -> a list of arrays, lifted; traced once for all sites of one form.

        Args:
            what: names the function, which reads nothing but `spec` and its arguments.
        """
        structs = [x.struct for x in args]
        key = (what, spec.structure_key()[1:], tuple((s.shape, s.dtype) for s in structs))
        if key not in self.shared.traces:
            self.shared.traces[key] = open_jaxpr(jax.make_jaxpr(function)(*structs))
        inner, consts = self.shared.traces[key]
        return self.run(inner, [*map(plain, consts), *args])

    def line(self, eqn: JaxprEqn) -> str:
        """The user's line of an equation; of what the density of a site is made of, that of the site."""
        at = next((i for i, e in enumerate(self.around) if is_site(e)), None)
        return source_line(eqn, self.around) if at is None else source_line(self.around[at], self.around[:at])

    def equation(self, eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
        if is_site(eqn):
            return [site(self, eqn, operands)]
        name = eqn.primitive.name
        if not has_sites(eqn):
            known = _known(operands)
            if name in _INLINED and known:
                return self.inlined(eqn, operands)
            if all(x.is_plain for x in operands) and name != "broadcast_in_dim":  # what is broadcast stays thin
                if known and name in NUMPY_RULES:
                    return [plain(_in_numpy(eqn, *(x.array for x in operands)))]
                return list(map(plain, bind(eqn, [x.array for x in operands])))
            if name in ELEMENTWISE:
                (shape,) = result_shapes(eqn)
                case = _only_case(*operands) if name == "select_n" else None
                if case is not None:
                    return [case]
                return self.checked(eqn, operands, [elementwise(self.arithmetic(eqn, operands), operands, shape)])
        if name in _INLINED or (has_sites(eqn) and body_of(eqn) is not None):
            return self.inlined(eqn, operands)
        if name == "scan":
            return scan(self, eqn, operands)
        if name == "cond":
            return self.cond(eqn, operands)
        if has_sites(eqn):
            raise ModelError(f"site {site_names(eqn)[0]!r} stands inside `{name}`, which models with discrete latent sites cannot contain.")
        if body_of(eqn) is not None:
            return self.checked(eqn, operands, self.custom(eqn, operands))
        return self.checked(eqn, operands, by_rule(eqn, operands))

    def inlined(self, eqn: JaxprEqn, operands: Sequence[Lifted]) -> list[Lifted]:
        inner, consts = open_jaxpr(body_of(eqn))
        return self.inside(eqn).run(inner, [*map(plain, consts), *operands])

    def arithmetic(self, eqn: JaxprEqn, operands: Sequence[Lifted]) -> Callable[..., Any]:
        """What an equation does element by element: in NumPy where all of its operands are known, and are few numbers."""
        if eqn.primitive.name not in NUMPY_RULES or not _known(operands):
            return lambda *xs: bind(eqn, [jnp.asarray(x) for x in xs])[0]
        return lambda *xs: _in_numpy(eqn, *xs)

    def inside(self, eqn: JaxprEqn) -> "Walk":
        return replace(self, around=(*self.around, eqn))

    def custom(self, eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
        """A function with a derivative of its own: bound whole; its labels are those of its body."""
        inner, consts = open_jaxpr(body_of(eqn))
        found: list[Lifted] = []
        silent = replace(self.inside(eqn), shared=replace(self.shared, report=Report(None)))

        def look(*arrays: Any) -> None:
            values = [replace(x, array=a) for x, a in zip(operands, arrays, strict=True)]
            found.extend(silent.run(inner, [*map(plain, consts), *values]))

        jax.eval_shape(look, *(x.array for x in operands))
        arrays, dims = mapped(lambda *xs: bind(eqn, xs), [full(x) for x in operands])
        return [Lifted(a, dims, f.shape, f.labels) for a, f in zip(arrays, found, strict=True)]

    def cond(self, eqn: JaxprEqn, operands: list[Lifted]) -> list[Lifted]:
        index, *args = operands
        if has_sites(eqn):
            name = site_names(eqn)[0]
            discrete = next((v.site for x in operands for v in x.variables), None)
            if discrete is None:
                discrete = next((n for n in site_names(eqn) if n in self.shared.enumerated), None)
            if discrete is None:
                discrete = min(self.shared.enumerated)
            raise ModelError(
                f"site {discrete!r} ({self.shared.lines[discrete]}) is discrete and to be summed out, and site {name!r} "
                f"({self.shared.lines[name]}) stands in a branch of a `cond` ({self.line(eqn)}), which a model with such "
                "sites cannot have. Sample outside of the `cond`, and choose by `jnp.where`."
            )
        branches = []
        for branch in eqn.params["branches"]:
            inner, consts = open_jaxpr(branch)
            branches.append(self.inside(eqn).run(inner, [*map(plain, consts), *args]))

        def choose(which: Any, *cases: Any) -> Any:
            return jax.lax.select_n(jnp.clip(which, 0, len(cases) - 1).astype(np.int32) if which.dtype != bool else which, *cases)

        return self.checked(eqn, operands, [elementwise(choose, [index, *cases], cases[0].shape) for cases in zip(*branches, strict=True)])

    def checked(self, eqn: JaxprEqn, operands: Sequence[Lifted], results: list[Lifted]) -> list[Lifted]:
        """The results, if every variable in them still has its labels.

        Raises:
            ModelError: it has not: elements of a site are mixed; names the site, the primitive and the line.
        """
        for value in results:
            self.shared.report.look(value, lambda: self.line(eqn))
            own = [label.root for label in value.labels if label is not None]
            reached = [r for label in own for r in label.reached]
            turns = {id(self.chain.later) if self.chain else 0}
            for variable in value.variables:
                for label in variable.labels:
                    if id(label) not in turns and not any(label.root is r for r in reached):
                        raise self.mixed(eqn, variable, label)
            if value.variables and not distinct(own):
                raise self.mixed(eqn, value.variables[-1], own[0])
        return results

    def mixed(self, eqn: JaxprEqn, variable: Variable, label: Label) -> ModelError:
        name = variable.site
        return ModelError(
            f"site {name!r} ({self.shared.lines[name]}) is discrete and to be summed out, and `{_in_words(eqn, self.around)}` "
            f"({self.line(eqn)}) computes one row from several of its elements (along {label.root.words}), so that they "
            "cannot be summed out one by one. Let what depends on element n of the site depend on that element alone; give a site that all "
            "rows share no axis; write a sequence of states as a `jax.lax.scan`."
        )


def _known(operands: Sequence[Lifted]) -> bool:
    """Whether all are known while the program is traced, and few numbers."""
    return all(isinstance(x.array, np.ndarray) and x.array.size <= _FEW for x in operands)


def _in_numpy(eqn: JaxprEqn, *arrays: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # as XLA, which says nothing of 1 / 0
        return NUMPY_RULES[eqn.primitive.name](eqn, 0, *arrays)


def _only_case(which: Lifted, *cases: Lifted) -> Lifted | None:
    """Of a choice what it comes to, if that is known and everywhere the same."""
    numbers = which.array.astype(int) if isinstance(which.array, np.ndarray) and which.array.size else None
    return cases[numbers.flat[0]] if numbers is not None and (numbers == numbers.flat[0]).all() else None


def _read(env: Mapping[Any, Lifted], atom: Any) -> Lifted:
    if isinstance(atom, Literal):
        aval: Any = atom.aval
        return plain(np.asarray(atom.val, aval.dtype))
    return env[atom]


def _in_words(eqn: JaxprEqn, around: Sequence[JaxprEqn]) -> str:
    """The name by which a user knows what an equation belongs to: that of the outermost function of JAX's around it, or its own."""
    names = [e.params["name"] for e in around if e.primitive.name in CALLS and isinstance(e.params.get("name"), str)]
    return names[0].strip("_") if names else eqn.primitive.name
