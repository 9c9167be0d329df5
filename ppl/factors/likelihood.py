"""Reading a site's distribution: its family, its predictor, and where the other parameters of a row come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_flatten, tree_unflatten
from numpyro.distributions import Distribution, Unit
from numpyro.distributions.conjugate import NegativeBinomial2
from numpyro.distributions.discrete import CategoricalProbs, OrderedLogistic

from ...transforms import ModelError
from ...transforms.affine.rules import aval
from ...transforms.equations import body_of, run_jaxpr
from ...transforms.jax_compat import JaxprEqn, Literal, Var, bind, open_jaxpr
from ...transforms.structure import structure
from .cut import Cuts, Obstacle
from .elementwise import Placed, RowFunction
from .equations import ModelEquations, size_of
from .families import KNOWN, Known
from .links import Link, link_of
from .records import Family

__all__ = ["Likelihood", "read_likelihood"]

_PLAIN = Link("identity", 1.0, 0.0, None)


@dataclass(frozen=True)
class Likelihood:
    """What a site's distribution is of its rows.

    Attributes:
        family: see there.
        predictor: the affine value; eta = predictor * link.scale + link.shift + log(link.exposure).
        params: data of each row by name: an atom with its axes, or a number. shared: latent scalars by name.
    """

    family: Family
    predictor: Placed
    link: Link
    params: Mapping[str, Placed | float]
    shared: Mapping[str, Var]


class _Refused(Exception):
    """A known family does not fit; the words say why."""


def read_likelihood(cuts: Cuts, base: Distribution, value: Any, rank: int, where: str) -> Likelihood:
    """The likelihood of a row.

    Args:
        cuts: of the model.
        base: the site's distribution without its wrappers; its leaves are atoms of the model's equations.
        value: the atom of the observation.
        rank: number of row axes.
        where: the site in words.

    Raises:
        ModelError: it is no function of one linear predictor, data of its row and latent scalars.
    """
    if isinstance(base, Unit):
        raise ModelError(f"{where} is a factor without an observation. Write it as a distribution of the data, observed in a plate.")
    if isinstance(base, OrderedLogistic):
        raise ModelError(
            f"{where}: {type(base).__name__} gives ordered classes the probabilities between cut points, for which there is no bound. Use "
            "lc.NUTS; or, for two classes, write `dist.Bernoulli(logits=predictor - cutpoint)`."
        )
    if isinstance(base, CategoricalProbs):
        raise ModelError(f"{where}: probabilities of classes are no linear predictors. Write `dist.Categorical(logits=X @ B + a)`.")
    words = ""
    known = KNOWN.get(type(base))
    if known is not None:
        try:
            return _known(cuts, base, known, rank)
        except _Refused as e:
            words = str(e)
    return _traced(cuts, base, value, rank, where, words)


def _known(cuts: Cuts, base: Distribution, known: Known, rank: int) -> Likelihood:
    parameter = _mean(cuts, base, rank) if type(base) is NegativeBinomial2 else Placed.at_the_right(getattr(base, known.parameter), rank)
    if "identity" in known.links:
        found = cuts.of(parameter.atom)
        if isinstance(found, Obstacle):
            raise _Refused(f"`{known.parameter}` is not affine in the latent variables: {found}")
        predictor, link = parameter, _PLAIN
    else:
        predictor, link = _linked(cuts, parameter, known)
    params: dict[str, Placed | float] = {}
    shared: dict[str, Var] = {}
    for name in known.others:
        atom = getattr(base, name)
        if not cuts.model.is_latent(atom) if isinstance(atom, Var) else True:
            params[name] = _data(atom, rank)
        elif size_of(atom) == 1:
            shared[name] = atom
        else:
            raise _Refused(f"`{name}` is latent and differs from row to row")
    return Likelihood(Family(type(base), link.name, 1, known.links[link.name]), predictor, link, params, shared)


def _data(atom: Any, rank: int) -> Placed | float:
    if isinstance(atom, Literal):
        return float(atom.val)
    return Placed.at_the_right(atom, rank) if hasattr(atom, "aval") else float(atom)


def _linked(cuts: Cuts, parameter: Placed, known: Known) -> tuple[Placed, Link]:
    function = RowFunction(cuts, scalars=True)
    obstacle = function.add(parameter)
    if obstacle is not None:
        raise _Refused(f"`{known.parameter}` is no function of a linear predictor: {obstacle}")
    link = link_of(function)
    if link is None or link.name not in known.links:
        raise _Refused(f"the link of `{known.parameter}` is none of {sorted(known.links)}")
    return function.predictors[0], link


def _mean(cuts: Cuts, base: Distribution, rank: int) -> Placed:
    """NumPyro's class keeps concentration / mean and not the mean."""
    placed: Placed | None = Placed.at_the_right(vars(base)["rate"], rank)
    while placed is not None:
        eqn = cuts.model.definition.get(placed.atom)
        if eqn is None:
            break
        name = eqn.primitive.name
        if name == "div":
            mean = eqn.invars[1]
            return Placed(mean, placed.axes if aval(mean).shape == placed.shape else tuple(None for _ in aval(mean).shape))
        placed = placed.before(eqn) if name in ("broadcast_in_dim", "reshape", "squeeze") else None
    raise _Refused("`mean` cannot be read off")


def _traced(cuts: Cuts, base: Distribution, value: Any, rank: int, where: str, words: str) -> Likelihood:
    """By the distribution's own `log_prob`: of the parameters that depend on rows and latent variables, one has the predictor."""
    leaves, treedef = tree_flatten(base)
    fields = _fields(base)
    varying = [n for n, a in fields.items() if isinstance(a, Var) and cuts.model.is_latent(a) and size_of(a) > 1]
    found: RowFunction | Obstacle | None = None
    for name in sorted(varying, key=lambda n: (_FIRST.index(n) if n in _FIRST else len(_FIRST), n)):
        found = _function_of(cuts, leaves, Placed.at_the_right(fields[name], rank), rank)
        if isinstance(found, RowFunction):
            break
    if not isinstance(found, RowFunction):
        obstacle = f" {found}." if found is not None else " No parameter depends on both the row and a latent variable."
        raise ModelError(
            f"{where}: its likelihood is no function of one linear predictor per row.{' ' + words + '.' if words else obstacle} Expected "
            "one parameter of the distribution that is an affine function of latent variables (X @ beta + alpha, alpha[group], ...), or an "
            "elementwise function of such a value; the other parameters may be data, or latent scalars."
        )
    rows = _names(found.rows, {n: Placed.at_the_right(a, rank) for n, a in fields.items() if hasattr(a, "aval")}, "data")
    shared = _names(found.shared, {n: a for n, a in fields.items() if isinstance(a, Var)} | _sites(cuts.model, found.shared), "latent")
    log_likelihood = _Traced.of(found, leaves, treedef, rows, shared, value)
    family = Family(type(base), _link_name(cuts, fields, varying, rank), 1, log_likelihood)
    params, latents = dict(zip(rows, found.rows, strict=True)), dict(zip(shared, found.shared, strict=True))
    return Likelihood(family, found.predictors[0], _PLAIN, params, latents)


def _fields(dist: Distribution) -> dict[str, Any]:
    """The parameters of a distribution and of those that it is made of, by name; its own first."""
    own = {name: getattr(dist, name, None) for name in sorted(type(dist).gather_pytree_data_fields())}
    found = {name: value for name, value in own.items() if not isinstance(value, Distribution)}
    for value in own.values():
        if isinstance(value, Distribution):
            found = {**_fields(value), **found}
    return found


def _sites(model: ModelEquations, found: list[Var]) -> dict[str, Any]:
    """The values among `found` that are computed from one latent site, by its name."""
    return {repr(names[0]): v for v in found if len(names := model.sites_read(v)) == 1}


_FIRST = ("loc", "mean", "logits", "probs", "rate")
"""The parameters that are asked first whether they have the predictor."""


def _function_of(cuts: Cuts, leaves: list[Any], predicted: Placed, rank: int) -> RowFunction | Obstacle:
    """The function from one predictor, to be found in `predicted`, to the leaves of the distribution."""
    function = RowFunction(cuts)
    obstacle = function.add(predicted)
    function.results.clear()
    for leaf in leaves:
        if obstacle is None and hasattr(leaf, "aval"):
            obstacle = function.add(Placed.at_the_right(leaf, rank), predicted=False)
    if obstacle is not None:
        return obstacle
    if len(function.predictors) != 1:
        shapes = ", ".join(p.atom.aval.str_short() for p in function.predictors)
        return Obstacle(cuts.model.definition[predicted.atom], f"is computed from {len(function.predictors)} linear predictors ({shapes})")
    return function


def _names(found: list[Any], fields: Mapping[str, Any], word: str) -> list[str]:
    """The name of the distribution's own field where an input is one, or a number."""
    return [next((n for n, a in fields.items() if a == x), f"{word}_{i}") for i, x in enumerate(found)]


def _link_name(cuts: Cuts, fields: Mapping[str, Any], varying: list[str], rank: int) -> str:
    """The link, if exactly one field depends on the rows and the latent variables, and its link is one that has a name."""
    if len(varying) != 1:
        return "traced"
    function = RowFunction(cuts)
    function.add(Placed.at_the_right(fields[varying[0]], rank))
    if function.results == [("predictor", 0, ())]:
        return "identity"
    link = link_of(function)
    return link.name if link is not None and link[1:] == (1, 0, None) else "traced"


@dataclass(frozen=True, eq=False)
class _Traced:
    """The log likelihood of a row, traced from a distribution's own `log_prob`; two are equal if they run the same equations.

    Inputs of another precision than the model's are computed with as they are, so that a bound can be checked in float64.
    """

    jaxpr: Any
    rows: tuple[str, ...]
    shared: tuple[str, ...]
    key: Any

    @classmethod
    def of(cls, function: RowFunction, leaves: list[Any], treedef: Any, rows: list[str], shared: list[str], value: Any) -> "_Traced":
        def log_likelihood(eta: Any, rows: list[Any], shared: list[Any], value: Any) -> Any:
            computed = iter(function([eta], shared, rows))
            dist = _scalar(tree_unflatten(treedef, [next(computed) if hasattr(leaf, "aval") else leaf for leaf in leaves]))
            return dist.log_prob(value)

        def scalar(atom: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((), atom.aval.dtype)

        rest = [[scalar(p.atom) for p in function.rows], [scalar(v) for v in function.shared], scalar(value)]
        jaxpr = jax.make_jaxpr(log_likelihood)(scalar(function.predictors[0].atom), *rest)
        return cls(jaxpr, tuple(rows), tuple(shared), (structure(jaxpr), tuple(rows), tuple(shared)))

    def __call__(self, eta: Any, row: dict[str, Any], shared: dict[str, Any]) -> Any:
        inputs = [eta, *(row[n] for n in self.rows), *(shared[n] for n in self.shared), row["value"]]
        types = [v.aval.dtype for v in open_jaxpr(self.jaxpr)[0].invars]
        inputs = [x.astype(t) if _counts(t) and not _counts(x.dtype) else x for x, t in zip(map(jnp.asarray, inputs), types, strict=True)]
        wide = any(x.dtype == np.float64 for x in inputs)
        return run_jaxpr(*open_jaxpr(self.jaxpr), inputs, _in_double if wide else bind)[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Traced) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _counts(dtype: Any) -> bool:
    """Whether a type is one of whole numbers or truth values; a table of rows may hold them as floats."""
    return not np.issubdtype(dtype, np.floating)


def _scalar(dist: Distribution) -> Distribution:
    """The distribution of one row, without checks: what is outside a support has been refused already."""
    dist._validate_args = False
    dist._batch_shape = ()
    for value in vars(dist).values():
        if isinstance(value, Distribution):
            _scalar(value)
    return dist


def _in_double(eqn: JaxprEqn, operands: list[Any]) -> list[Any]:
    """One equation of a program traced in any precision, in float64."""
    name = eqn.primitive.name
    if (body := body_of(eqn)) is not None:
        return run_jaxpr(*open_jaxpr(body), operands, _in_double)
    operands = [jnp.asarray(x, np.float64) if np.issubdtype(jnp.result_type(x), np.floating) else x for x in operands]
    if name == "convert_element_type" and np.issubdtype(eqn.params["new_dtype"], np.floating):
        return [jnp.asarray(operands[0], np.float64)]
    return bind(eqn, operands)
