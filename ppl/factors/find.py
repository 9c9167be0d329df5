"""`find_factor`: the observed site of a model that is a sum over rows, taken apart into rows, coefficients and the rest."""

import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import tree_unflatten

from ...transforms import LucioleWarning, ModelError
from ...transforms.affine.host_columns import computed_but_rows
from ...transforms.affine.host_design import NotOnHostError, is_mapped
from ...transforms.equations import needed_inputs
from ...transforms.jax_compat import Var, open_jaxpr
from ..density import LogDensity
from ..dependence import edges
from ..interpreters import constrain, score_sites
from ..program import ModelProgram, Site
from ..spec import Spec, peel
from .centred import log_scales_of
from .classes import class_design
from .cut import Cuts
from .elementwise import Placed, to_rows
from .equations import ModelEquations
from .extract import CoefficientMap, Coefficients, LatentValues, design_of, prior_of
from .families import SOFTMAX, reference_softmax, softmax
from .likelihood import Likelihood, read_likelihood
from .records import POWER, Factor, Family, Rows
from .usable import powers_of, usable, used_rows

__all__ = ["FullEvaluationWarning", "RowsOnDeviceWarning", "find_factor"]

_AS_IT_IS = (
    "Expected a NumPy array of shape (rows, columns) that enters the linear predictor as it is, `X @ beta`, and nothing else: change the "
    "array before, or have it copied to the device (rows='device')."
)

_TALL = 1000


class RowsOnDeviceWarning(LucioleWarning):
    """Memory-mapped rows are copied to the device as a whole: the model does more with them than `X @ beta`."""


class FullEvaluationWarning(LucioleWarning):
    """Another observed site is tall as well, and is evaluated in full wherever the log density without the chosen one is asked for."""


def find_factor(log_density: LogDensity, plate: str | None = None, rows: str = "device") -> Factor:
    """The factor of a model whose likelihood is that of a linear predictor, row by row.

        log density(u) = sum_n log_likelihood(eta_n, row n, shared(u)) + log_prior(data, u),   eta = design @ coefficients(u) + offset

    That eta is affine in the coefficients, with a matrix made of data alone, is proved on the model's equations; design and offset are
    computed from them, once.

    Args:
        log_density: of a model, Luciole's or NumPyro's.
        plate: the name of the plate, or of the observed site, if there are several.
        rows: where design matrices are kept. "device"; "host": NumPy arrays (obs, columns) that enter the linear predictor as they are stay
            where they are; "auto": memory-mapped ones do, if they can.

    Returns:
        The factor; its rows are in the order of the site's elements, masked ones left out.

    Raises:
        ModelError: no observed site depends on a latent one, or several do; the site is no sum over rows, or stands in a loop; it is scaled
            by what is latent or negative; its likelihood is no function of one linear predictor; the predictor is not affine; a row is not
            finite; or rows cannot stay in host memory.

    Warns:
        FullEvaluationWarning: another observed site that depends on latent ones has a thousand elements or more.
        RowsOnDeviceWarning: memory-mapped rows cannot stay in host memory.
    """
    site = _choose(log_density, plate)
    where = f"site {site.name!r} ({site.line})"
    _check_site(site, where)
    model = ModelEquations.of(log_density.program, site.name)
    if model is None:
        raise ModelError(f"{where} stands inside a `cond`; expected an observed site that is always there. Choose by `jnp.where`.")
    spec = site.spec
    leaves, value = model.operands[: spec.num_leaves], model.operands[spec.num_leaves]
    base, masks = peel(_with_atoms(spec, leaves))
    if base.event_dim:
        raise ModelError(
            f"{where}: {spec.distribution} has events of shape {tuple(base.event_shape)}, whose elements are not independent rows. "
            "Expected a distribution of single numbers, one for each row."
        )
    find = _softmax if isinstance(base, SOFTMAX) else _one_predictor
    read = partial(find, log_density, model, base, value, site, where)
    parts = _parts(log_density, read, math.prod(site.shape), rows)
    powers = powers_of(model, spec, tuple(site.shape), log_density.data, where)
    table = parts.table
    if powers is not None:
        table = table._replace(params={**table.params, POWER: powers})
    table = usable(table, used_rows(model, masks, powers, tuple(site.shape), log_density.data, where), where)
    names = [p.name for p in spec.plates]
    return Factor(
        site=site.name,
        plate=plate if plate in names else (names[0] if names else ""),
        family=parts.family,
        rows=table,
        coefficients=parts.coefficients.function,
        shared=parts.shared,
        log_prior=prior_of(log_density, site.name),
        columns=parts.coefficients.columns,
        coefficient_matrix=parts.coefficients.matrix,
        coefficient_offset=parts.coefficients.offset,
        data=[np.zeros(0, x.dtype) if i in parts.on_host else x for i, x in enumerate(log_density.data)],
        site_line=site.line,
        log_scales=log_scales_of(log_density),
    )


def _parts(log_density: LogDensity, read: Callable[[Sequence[int] | None], "_Parts"], num_rows: int, rows: str) -> "_Parts":
    """What is found in a site by `read`, which is given the numbers of the data that may stay on the host, or None for none."""
    host = [i for i, x in enumerate(log_density.data) if isinstance(x, np.ndarray) and x.ndim == 2 and len(x) == num_rows]
    if rows == "auto":
        host = [i for i in host if is_mapped(log_density.data[i])]
    if rows == "device" or (rows == "auto" and not host):
        return read(None)
    try:
        return read(host)
    except NotOnHostError as e:
        if rows == "host":
            raise
        warnings.warn(f"{e} It is copied to the device now.", RowsOnDeviceWarning, stacklevel=2)
    return read(None)


def _one_predictor(
    log_density: LogDensity, model: ModelEquations, base: Any, value: Any, site: Site, where: str, host: Sequence[int] | None
) -> "_Parts":
    rows = tuple(site.shape)
    cuts = Cuts(model, math.prod(rows))
    likelihood = read_likelihood(cuts, base, value, len(rows), where)
    variables, extract_design = design_of(cuts, likelihood.predictor, rows, log_density.data, where)

    coefficients = Coefficients(LatentValues.of(log_density, model, variables))
    shared = LatentValues.of(log_density, model, tuple(likelihood.shared.values()))

    def extract(data: Sequence[Any]) -> Any:
        table = _rows(model, likelihood, value, rows, extract_design(data), data)
        prepared = coefficients.values.prepare(data)
        return table, prepared, coefficients.matrix(prepared), shared.prepare(data)

    if host is None:  # one compilation for everything that is computed from the data
        (table, prepared, affine, prepared_shared), stayed = jax.jit(extract)(log_density.data), []
    else:
        (table, prepared, affine, prepared_shared), stayed = computed_but_rows(extract, log_density.data, host, where, _AS_IT_IS)
        _refuse_other_uses(log_density, stayed, site.name, where)

    def shared_of(position: Any) -> dict[str, jax.Array]:
        values = shared(position, prepared_shared) if shared.variables else []
        return {name: jnp.reshape(x, ()) for name, x in zip(likelihood.shared, values, strict=True)}

    return _Parts(likelihood.family, table, shared_of, coefficients.described(prepared, affine), stayed)


def _refuse_other_uses(log_density: LogDensity, host: Sequence[int], site: str, where: str) -> None:
    """Raises NotOnHostError if something besides the site, a prior or a deterministic site, reads data that stay on the host."""

    def others(data: Sequence[Any], position: Any) -> Any:
        return score_sites(log_density.program, data, position, without=site), constrain(log_density.program, data, position)

    jaxpr, _ = open_jaxpr(jax.make_jaxpr(others)(log_density.data, log_density.positions))
    read = needed_inputs(jaxpr, [True] * len(jaxpr.outvars))
    if any(read[i] for i in host):
        raise NotOnHostError(
            f"{where}: its rows cannot stay in host memory, because another site of the model is computed from them as well: a factor, or "
            "a `deterministic` site. Remove that, or have them copied to the device (rows='device')."
        )


class _Parts(NamedTuple):
    """What is found in a site, one predictor or several: see `Factor`. on_host: the numbers of the data that stay there."""

    family: Family
    table: Rows
    shared: Callable[[Any], dict[str, jax.Array]]
    coefficients: CoefficientMap
    on_host: Sequence[int] = ()


def _softmax(
    log_density: LogDensity, model: ModelEquations, base: Any, value: Any, site: Site, where: str, host: Sequence[int] | None
) -> "_Parts":
    """A categorical likelihood; if a class has a logit that no latent variable moves, the logits against it."""
    if host is not None:
        raise NotOnHostError(f"{where}: the rows of a likelihood with several logits cannot stay in host memory; write rows='device'.")
    if not isinstance(base.logits, Var) or not model.is_latent(base.logits):
        raise ModelError(f"{where}: the logits do not depend on a latent variable.")
    rows = tuple(site.shape)
    cuts = Cuts(model, math.prod(rows), slack=2)
    found = class_design(cuts, base.logits, rows, log_density.data, where)
    (observed,) = model.values([value], log_density.data)
    observed = jnp.broadcast_to(observed, rows).reshape(-1)
    values = LatentValues.of(log_density, model, found.variables)
    prepared = jax.jit(values.prepare)(log_density.data)
    coefficients = Coefficients(values, found.arrange)
    affine = jax.jit(coefficients.matrix)(prepared)
    num_classes = found.offset.shape[1]
    pinned = found.pinned or _zero_classes(affine, num_classes)
    if not pinned:
        family = Family(SOFTMAX, "softmax", num_classes, softmax)
        table = Rows(found.design, found.offset, {"value": observed})
        return _Parts(family, table, lambda position: {}, coefficients.described(prepared, affine))
    first, others = pinned[0], np.delete(np.arange(num_classes), pinned[0])
    number = np.empty(num_classes, np.int32)
    number[first], number[others] = 0, np.arange(1, num_classes)
    table = Rows(found.design, found.offset[:, others] - found.offset[:, [first]], {"value": jnp.asarray(number)[observed]})
    free = Coefficients(values, lambda elements: found.arrange(elements)[:, others])
    family = Family(SOFTMAX, "reference softmax", num_classes - 1, reference_softmax)
    kept = (np.arange(found.design.shape[1])[:, None] * num_classes + others).reshape(-1)
    of_others = None if affine is None else (affine[0][kept], affine[1][kept])
    return _Parts(family, table, lambda position: {}, free.described(prepared, of_others))


def _zero_classes(affine: tuple[jax.Array, jax.Array] | None, num_classes: int) -> list[int]:
    """The classes whose coefficients are zero at every position."""
    if affine is None:
        return []
    zero = (np.asarray(affine[0]) == 0).all(1) & (np.asarray(affine[1]) == 0)
    return np.flatnonzero(zero.reshape(-1, num_classes).all(0)).tolist()


def _choose(log_density: LogDensity, plate: str | None) -> Site:
    program = log_density.program
    depends = {e.child for e in edges(program)}
    found = [s for s in program.sites.values() if s.kind == "sample" and s.observed and s.name in depends]
    plates = {s.name: [p.name for p in s.spec.plates] for s in found}
    if plate is not None:
        found = [s for s in found if plate == s.name or plate in plates[s.name]]
    words = "; ".join(f"{s.name!r} in plate {', '.join(map(repr, plates[s.name])) or '(none)'}, shape {s.shape} ({s.line})" for s in found)
    if not found:
        which = "" if plate is None else f" in a plate of the name {plate!r}, nor one of that name itself"
        there = ", ".join(f"{s.name!r} ({s.role})" for s in program.sites.values())
        raise ModelError(
            f"the model has no observed site that depends on a latent one{which}; its sites are {there}. Expected the data as an observed "
            'site in a plate: `with lc.plate("rows", len(y)): lc.sample("y", ..., obs=y)`.'
        )
    if len(found) > 1:
        raise ModelError(
            f"several observed sites could be the data: {words}. Say which by `plate=`, with the name of the plate or of the site."
        )
    _warn_of_others(program, found[0], depends)
    return found[0]


def _warn_of_others(program: ModelProgram, chosen: Site, depends: set[str]) -> None:
    others = [s for s in program.sites.values() if s.observed and s.name in depends and s.name != chosen.name]
    for site in others:
        size = math.prod(site.shape)
        if size >= _TALL:
            warnings.warn(
                f"site {site.name!r} ({site.line}) has {size} observations, all of which are evaluated for every log density: "
                f"only {chosen.name!r} ({chosen.line}) is taken apart into rows. Where both have one family, write them as one `sample` "
                "statement on joined data; or choose the taller one by `plate=`.",
                FullEvaluationWarning,
                stacklevel=4,
            )


def _check_site(site: Site, where: str) -> None:
    spec = site.spec
    if site.loops:
        raise ModelError(
            f"{where} stands inside a loop, so that a row may depend on the rows before it. Expected rows that are independent given the "
            "latent variables: write them as one `sample` statement in a plate."
        )
    if spec.vmaps:
        raise ModelError(f"{where} stands inside `jax.vmap`; expected one `sample` statement for all rows. Put it into a plate instead.")


def _with_atoms(spec: Spec, atoms: Sequence[Any]) -> Any:
    """The site's distribution with atoms of the model's equations for its arrays."""
    leaves: list[Any] = [None] * len(spec.order)
    for place, leaf in zip(spec.order, [*atoms, *spec.static], strict=True):
        leaves[place] = leaf
    return tree_unflatten(spec.treedef, leaves)


def _rows(
    model: ModelEquations, likelihood: Likelihood, value: Any, rows: tuple[int, ...], design: tuple[Any, Any], data: Sequence[Any]
) -> Rows:
    matrix, offset = design
    rank, dtype, link = len(rows), matrix.dtype, likelihood.link

    def read(what: Placed | float) -> Any:
        if not isinstance(what, Placed):
            return jnp.full(int(np.prod(rows)), what, dtype)
        found = to_rows(model.values([what.atom], data)[0], what.axes, rows)
        return found.astype(dtype) if likelihood.family.link != "traced" else found

    params = {"value": read(Placed.at_the_right(value, rank)), **{name: read(what) for name, what in likelihood.params.items()}}
    if link.scale != 1:
        matrix, offset = matrix * link.scale, offset * link.scale
    if link.shift != 0:
        offset = offset + link.shift
    if link.exposure is not None:
        offset = offset + jnp.log(read(link.exposure)).astype(dtype)
    return Rows(matrix, offset, params)
