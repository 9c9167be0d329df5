"""The set-up of Firefly Monte Carlo: where the posterior is, a bound for every row, and how often each row is proposed.

After the mode is found (`laplace`) two passes over the data, a tile at a time: the bounds, and their moments.
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.stats import poisson

from ...ppl import LogDensity
from ...ppl.factors import Factor, Family, Rows
from ...transforms import SamplerError, hvp, jvp
from ...transforms.bounded import bounded_jit
from ...transforms.errors import BoundError
from .bounds import is_softmax, refuse, refuse_unbounded, scale_bound, untuned_anchor
from .conditional import TILE, Conditional
from .kinds import Kind, Parabola, Residual
from .laplace import SMALLEST, Laplace, columns, directions, find_mode, product, scaled_eigh, wide
from .records import BoundData, Natural
from .rest import Rest
from .tiles import in_tiles, sum_tiles

__all__ = ["Setup", "set_up"]

_SAFETY = 1 + 1e-5  # the radius of a row's ball is computed in floating point
_TILE = 8192
_CHECKED = 2000  # rows whose bounds are checked in the set-up
_PLACES = (-1.0, -0.5, 0.5, 1.0)  # where, in radii of their balls
_RIDGE = 1e-9
_ROUGH = 0.02  # of the mean rate: no row is never proposed
# Expected bright rows. Fewer are cheap enough to dim the bounds twice as much, and hardly slow a chain down, so that a quarter of a turn is
# enough; with more, bounds are so much narrower than the posterior that chains have to turn further. Both lengths were tuned on benchmarks.
_FEW = 10.0
_MANY = 0.25  # of the rows expected to be bright: proposals would then be about as many as the dark rows
_LARGEST_RATE = 3.0  # proposed with a probability of 0.95; more would be the same rows again


@dataclass(frozen=True)
class Setup:
    """What sampling needs.

    Attributes:
        conditional: the density of the parameters given which rows are bright. bound_data: the data.
        softening: as used. length: advised, of a trajectory, radians.
        predicted: expected number of bright rows. queries: likelihoods that the set-up evaluated.
        factor: whose rows they are.
    """

    conditional: Conditional
    bound_data: BoundData
    softening: float
    length: float
    predicted: float
    queries: int
    factor: Factor


class _Normal(NamedTuple):
    """The posterior by Laplace.

    metric: (m, m), |metric @ shift| is in standard deviations of the coefficients. ridge: (d,), what their variances are raised by, where
    coefficients may stand in a fixed relation. spread: (d, predictors, dim), x @ spread is how a row's predictors move with whitened
    coordinates. shared: (number of them, dim), the same of the shared parameters.
    """

    metric: np.ndarray
    ridge: np.ndarray
    spread: np.ndarray
    shared: np.ndarray


def set_up(
    factor: Factor,
    density: LogDensity,
    *,
    bounds: str = "auto",
    softening: float | None = None,
    radius: float | None = None,
    z_update: str | None = None,
) -> Setup:
    """Bounds every row and chooses how often each is proposed.

    Args:
        factor: the likelihood.
        density: the log density that it was found in.
        bounds: "auto"; "global" for bounds that hold everywhere, which are looser; "untuned" if they shall not touch at the mode either.
        softening: dimming of each bound in units of its predicted gap; 1 where few rows are bright and 0.5 elsewhere if left out.
        radius: of the ball on which the bounds hold, in posterior standard deviations of the coefficients; sqrt of their number + 4 if left
            out. Outside, rows have another bound, which costs a pass over all of them.
        z_update: "implicit" or "explicit"; the latter, if left out, where more than a quarter of the rows are expected to be bright.

    Raises:
        SamplerError: the likelihood has latent parameters that no bound allows for; or there is no mode.
        BoundError: the family has no bound, or a row none.
    """
    rest, constants = Rest.of(factor, density.dim)
    kind = _kind_of(factor, rest, bounds)
    with_a_mode = _with_log_scales(factor, rest, constants, density.dim)
    with jax.enable_x64(True):
        found = find_mode(factor, *with_a_mode, density.dim)
        return _around(found, factor, rest, kind, constants, softening, radius, z_update)


def _with_log_scales(factor: Factor, rest: Rest, constants: Any, dim: int) -> tuple[Rest, Any]:
    """The rest of the model in coordinates in which it has a mode: see `Factor.log_scales`."""
    log_scales = factor.log_scales
    if log_scales is None:
        return rest, constants

    def log_prior(data: Any, position: Any) -> Any:
        return factor.log_prior(data, position) + log_scales(data, position)

    return Rest.of(replace(factor, log_prior=log_prior), dim)


def _around(found: Laplace, factor: Factor, rest: Rest, kind: Kind, constants: Any, softening, radius, z_update) -> Setup:
    m = len(found.natural) - len(rest.names)
    coefficients, shared = found.natural[:m], dict(zip(rest.names, found.natural[m:], strict=True))
    origin = coefficients.reshape(rest.shape)
    normal = _normal(found, m, factor.family.predictors)
    radius = float(np.sqrt(_rank(found.jacobian[:m])) + 4 if radius is None else radius)
    anchor, covariance, width = _anchored(factor.rows, origin, normal)
    bound = kind.fit(anchor, radius * _SAFETY * width, factor.rows.params, shared)
    if isinstance(kind, Parabola):
        refuse_unbounded(factor.family, bound, factor.rows.params)
    judged = _judged(kind, rest.names, factor.rows.params, anchor, bound, covariance, radius * width, tuple(shared.values()))
    _refuse(kind, judged)
    spread = judged.spread
    predicted = jnp.maximum(judged.least + spread, 0.0)
    few = float(predicted.sum()) < _FEW
    if float(spread.sum()) > len(anchor):
        raise SamplerError(
            f"FlyMC: no mode of the posterior was found: at the best point of site {factor.site!r} ({factor.site_line}) it is so flat that "
            "every row would be bright. Either it has no mode at a finite point (perfectly separated classes without a prior), or the "
            "data are too few; give proper priors, or use lc.NUTS."
        )
    softening = (1.0 if few else 0.5) if softening is None else softening
    dimming = softening * predicted
    bright = float(-jnp.expm1(-dimming - predicted).sum())
    rate = jnp.minimum(dimming + predicted, _LARGEST_RATE)
    rate = rate + _ROUGH * rate.mean()
    total = float(rate.sum())
    candidates = _buffer_size(total + 10 * np.sqrt(total) + 16)
    capacity = min(max(2 * candidates, 2 * TILE, _buffer_size(bright + 10 * np.sqrt(bright))), _buffer_size(len(anchor)))
    bound_data = BoundData(
        rows=factor.rows.design,
        anchor=anchor,
        params=factor.rows.params,
        bound=bound,
        dimming=dimming,
        rate=rate,
        cumulative=jnp.cumsum(rate),
        poisson=jnp.asarray(_table(candidates, total)),
        moments=_moments(kind, factor.rows, anchor, bound, dimming),
        metric=jnp.asarray(normal.metric),
        radius=jnp.asarray(radius),
        centre=jnp.asarray(found.mode),
        scale=jnp.eye(len(found.mode)),
        origin=jnp.asarray(origin),
        matrix=_map_of(factor),
        data=[jnp.asarray(x) for x in factor.data],
        constants=constants,
    )
    explicit = z_update == "explicit" or (z_update is None and bright > _MANY * len(anchor))
    conditional = Conditional(kind, rest, capacity, explicit)
    bound_data = bound_data._replace(scale=jnp.asarray(_whitening(kind, bound_data, found, rest.names)))
    return Setup(conditional, bound_data, softening, 1.7 if few else 2.5, bright, found.queries + 2 * len(anchor), factor)


def _rank(matrix: np.ndarray) -> int:
    """Of rows of unit length, for the rank does not depend on their units."""
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    return int(np.linalg.matrix_rank(matrix / np.where(lengths > 0, lengths, 1)))


def _kind_of(factor: Factor, rest: Rest, bounds: str) -> Kind:
    where, family = f"FlyMC: site {factor.site!r} ({factor.site_line})", factor.family
    if rest.names:
        one = np.ones(1)
        params = {name: jnp.ones(1, x.dtype) for name, x in factor.rows.params.items()}
        if rest.names == ("scale",) and family.predictors == 1 and scale_bound(family, one, 1.0, params) is not None:
            return Residual(family)
        raise SamplerError(
            f"{where}, {family.distribution.__name__}, has latent parameters besides its linear predictor "
            f"({', '.join(rest.names)}); of such likelihoods only those of a "
            f"residual whose scale is latent have a bound: Normal, StudentT, Cauchy, Logistic. {_advice(family)}"
        )
    if bounds == "untuned":
        return _untuned(family, where)
    if is_softmax(family) or bounds == "global":
        return Parabola(family, on_ball=False)
    return Parabola(family, on_ball=True)


def _advice(family: Family) -> str:
    """What to write instead of a likelihood with other latent parameters."""
    if "NegativeBinomial" in family.distribution.__name__:
        return (
            "Of a negative binomial the dispersion must be a number or data: take its estimate from lc.NUTS on a few thousand of the rows, "
            "or run lc.NUTS on all of them."
        )
    return "Give these parameters as numbers or data, or use lc.NUTS."


def _untuned(family: Family, where: str) -> Parabola:
    if untuned_anchor(family, jnp.zeros(1), {"value": jnp.zeros(1)}) is None:
        raise SamplerError(
            f"{where}: bounds='untuned' are those of Maclaurin & Adams (2014), for classes and residuals, and "
            f"{family.distribution.__name__} has none; write bounds='auto'."
        )
    return Parabola(family, on_ball=False, untuned=True)


def _normal(found: Laplace, m: int, predictors: int) -> _Normal:
    half = np.linalg.inv(np.linalg.cholesky(found.hessian)).T  # position = mode + half @ standard normal
    directions = found.jacobian @ half
    covariance = directions[:m] @ directions[:m].T
    ridge = _RIDGE * np.diag(covariance)
    metric = np.linalg.inv(np.linalg.cholesky(covariance + np.diag(ridge)))
    return _Normal(
        metric, ridge.reshape(-1, predictors).sum(1), directions[:m].reshape(-1, predictors, directions.shape[1]), directions[m:]
    )


@jax.jit
def _anchored(rows: Rows, coefficients, normal: _Normal):
    """Each row's predictors at the mode, (obs,) or (obs, predictors); by Laplace the covariance of predictors and shared parameters,
    (obs, size, size); and what bounds |t_n| on the unit ball, (obs,), for one predictor. Float64.

    That width is |x S|, S = `spread`, which is computed in the float type of the rows, with a unit rounding error u. Each element of x S is
    a sum of d products, of which S was rounded once: it is off by at most g sum_i |x_i S_ij|, g = (d + 2) u / (1 - (d + 2) u) (Higham,
    2002, section 3.1), so that by the triangle inequality the width is off by at most g sum_i |x_i| |S_i|. This is added.
    """
    size = normal.spread.shape[0]

    def tile(x, offset):
        anchor = wide(x) @ coefficients + wide(offset)
        moved = jnp.stack([product(x, normal.spread[:, k].astype(x.dtype)) for k in range(normal.spread.shape[1])])
        every = jnp.concatenate([moved, jnp.broadcast_to(normal.shared[:, None].astype(x.dtype), (len(normal.shared), *moved.shape[1:]))])
        covariance = wide(jnp.einsum("knw,lnw->nkl", every, every, precision=lax.Precision.HIGHEST))
        unit = float(jnp.finfo(x.dtype).eps) / 2 * (size + 2)
        error = unit / (1 - unit) * (jnp.abs(wide(x)) @ jnp.sqrt((normal.spread[:, 0] ** 2).sum(-1)))
        return anchor, covariance, error + jnp.sqrt((wide(moved[0]) ** 2).sum(-1) + wide(x) ** 2 @ normal.ridge)

    return in_tiles(tile, rows.design, rows.offset, tile=_TILE)


class _Judged(NamedTuple):
    """What the set-up found out about each row's bound, (obs,).

    least: the gap at the mode. spread: by how much its mean over the posterior is larger, to second order in predictors and shared
    parameters. touches: whether the bound has the likelihood's value and slope at the anchor. gap, offset, refuted: the worst that was
    found at offsets that were tried, beside the anchor for all rows, on the ball for some.
    """

    least: Any
    spread: Any
    touches: Any
    gap: Any
    offset: Any
    refuted: Any


@bounded_jit(static_argnums=(0, 1))
def _judged(kind: Kind, names, params, anchor, bound, covariance, reach, shared) -> _Judged:
    """Tries the bounds: a row that is never bright will not be tried again. `covariance` is that of predictors and shared parameters."""

    def gap(params, anchor, bound, at):
        offset, *shared = at
        return kind.gap(bound, anchor, offset, params, dict(zip(names, shared, strict=True)))

    def tile(params, anchor, bound, covariance):
        at = (jnp.zeros_like(anchor), *(jnp.broadcast_to(s, (len(anchor),)) for s in shared))
        here = gap(params, anchor, bound, at)
        bent = [columns(hvp(lambda at: gap(params, anchor, bound, at).gap.sum(), (at,), (along,))) for along in directions(at)]
        spread = 0.5 * jnp.einsum("kln,nkl->n", jnp.stack(bent), covariance)
        return here.gap, here.refuted, spread, kind.touches(bound, anchor, params)

    least, refuted, spread, touches = in_tiles(tile, params, anchor, bound, covariance, tile=_TILE)
    refuted |= spread < -1e-6 * (1e-6 + jnp.abs(spread).max())
    worst, offset = jnp.minimum(least, spread), jnp.zeros_like(least)
    if kind.on_ball:
        some = np.linspace(0, len(anchor) - 1, min(_CHECKED, len(anchor))).astype(int)
        some_params, some_bound = jax.tree.map(lambda x: x[some], (params, bound))
        offsets = jnp.asarray(_PLACES)[:, None] * reach[some]
        tried = [gap(some_params, anchor[some], some_bound, (t,)) for t in offsets]
        gaps, wrong = jnp.stack([g.gap for g in tried]), jnp.stack([g.refuted for g in tried])
        at = jnp.where(wrong, jnp.where(jnp.isnan(gaps), -jnp.inf, gaps), jnp.inf).argmin(0), jnp.arange(len(some))
        worst = worst.at[some].set(jnp.where(wrong.any(0), gaps[at], worst[some]))
        offset = offset.at[some].set(jnp.where(wrong.any(0), offsets[at], 0))
        refuted = refuted.at[some].max(wrong.any(0))
    return _Judged(least, spread, touches, worst, offset, refuted)


def _refuse(kind: Kind, judged: _Judged) -> None:
    """Raises:
    BoundError: a bound was refuted; names the row, from what was found there.
    """
    what = f"the bound of {kind.family.distribution.__name__}"
    away = np.flatnonzero(~np.asarray(judged.touches))
    if away.size:
        raise BoundError(
            f"FlyMC: {what} does not have the likelihood's value or slope at its anchor, first at row {away[0]} ({away.size} of "
            f"{judged.touches.size} rows); this is a fault of the bound, not of the data."
        )
    refuse(np.asarray(judged.gap), np.asarray(judged.refuted), np.asarray(judged.offset), what=what)


@bounded_jit(static_argnums=0)
def _moments(kind: Kind, rows: Rows, anchor, bound, dimming):
    def tile(rows, anchor, bound, dimming):
        params = jax.tree.map(wide, rows.params)
        return kind.moments(wide(rows.design), bound, anchor, params, dimming)

    return sum_tiles(tile, rows, anchor, bound, dimming, tile=_TILE)


def _whitening(kind: Kind, bound_data: BoundData, found: Laplace, names: tuple[str, ...]) -> np.ndarray:
    """scale scale' = C^-1, for C minus the Hessian of log prior + sum_n log B_n at the mode."""
    values, vectors = scaled_eigh(found.bend_of(*_slope_at_mode(kind, names, bound_data.moments, bound_data.origin, found.natural)))
    if not values[0] > SMALLEST:  # bounds that are no maximum there
        values, vectors = scaled_eigh(found.hessian)
    return vectors / np.sqrt(values)


def _table(size: int, mean: float) -> np.ndarray:
    """The distribution function of a Poisson variable on 0, 1, ..., size - 1, which leaves out ten standard deviations: 1e-22 at most."""
    table = poisson.cdf(np.arange(size), mean)
    assert table[-1] > 1 - 1e-14  # what rounding leaves of it
    table[-1] = 1.0
    return table


def _buffer_size(least: float) -> int:
    """The first of 32, 48, 64, 96, 128, ... that is enough: few sizes, so that new data find the compiled program."""
    size = TILE
    while size < least:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


@bounded_jit(static_argnums=(0, 1))
def _slope_at_mode(kind: Kind, names, moments, origin, natural):
    """Gradient and Hessian of sum_n log B_n in the natural vector."""
    size = origin.size

    def slope(moved):
        shared = dict(zip(names, natural[size:] + moved[size:], strict=True))
        found = kind.slope(moments, Natural(moved[:size].reshape(origin.shape), shared))
        return jnp.concatenate([found.shift.reshape(-1), *(found.shared[name][None] for name in names)])

    still = jnp.zeros_like(natural)
    return slope(still), jax.vmap(lambda tangent: jvp(slope, (still,), (tangent,))[1])(jnp.eye(len(natural)))


def _map_of(factor: Factor) -> jax.Array:
    """See `BoundData.matrix`."""
    if factor.columns is not None:
        return jnp.asarray(factor.columns.reshape(-1), jnp.int32)
    matrix = factor.coefficient_matrix
    return jnp.zeros(0) if matrix is None else jnp.asarray(np.asarray(matrix, np.float64))
