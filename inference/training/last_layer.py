"""The last layer of a network in closed form: given all before it, it is a linear regression.

No feature is asked for: the affine test finds the design matrix in the model, whatever the layers before are.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from numpyro import distributions as dist

from ...ppl import ModelProgram, trace
from ...ppl.dependence import edges
from ...ppl.interpreters import site_value
from ...ppl.moments import moments
from ...ppl.spec import Spec, peel
from ...ppl.walker import walk
from ...transforms import TrainingError, affine_in, why_not_affine
from .expected import expected, predicted_site
from .prediction import Noise, Prediction

__all__ = ["LastLayer", "last_layer"]

_OWNER = "last_layer"


class _Regression(NamedTuple):
    """design: (row, weight). offset, noise: (row,), the mean at zero weights, and the variance of an observation."""

    design: np.ndarray
    offset: np.ndarray
    noise: np.ndarray


@dataclass(frozen=True, eq=False)
class LastLayer:
    """The posterior N(mean, covariance) of a layer's weights, given one member's values for all other sites.

    Attributes:
        mean, covariance: (weight,), (weight, weight) in the order of `sites`, each ravelled.
        sites: shape of each of the layer's sites, by name.
        log_evidence: log p(y | everything but the layer), nats: of values that the same data chose, so no evidence of the model.
        noise: what `calibrate` found on held-out rows.
    """

    model: Callable[..., Any]
    given: dict[str, np.ndarray]
    site: str
    sites: dict[str, tuple[int, ...]]
    mean: np.ndarray
    covariance: np.ndarray
    log_evidence: float
    noise: Noise | None = None

    def predict(self, *args: Any, **kwargs: Any) -> Prediction:
        """The predictive distribution of new rows: `disagreement` is the standard deviation that the weights leave to the mean."""
        program = trace(self.model, *args, **kwargs)
        rows = _regression(program, self.site, self.given, self.sites)
        variance = np.einsum("ni,ij,nj->n", rows.design, self.covariance, rows.design)
        prediction = Prediction(rows.offset + rows.design @ self.mean, np.sqrt(np.maximum(variance, 0)), rows.noise)
        return prediction if self.noise is None else prediction.calibrated(self.noise)

    def calibrate(self, y: Any, *args: Any, **kwargs: Any) -> "LastLayer":
        """The same layer, with the noise that held-out rows show; as `Fit.calibrate`."""
        return replace(self, noise=replace(self, noise=None).predict(*args, **kwargs).noise_of(y))


def last_layer(
    model: Callable[..., Any], member: Mapping[str, np.ndarray], free: Sequence[str], site: str | None, args: tuple, kwargs: dict
) -> LastLayer:
    """With design matrix F, offset o, noise variances S and prior N(m, V) of the weights w,

        y ~ Normal(F w + o, S):   covariance = (V^-1 + F' S^-1 F)^-1,   mean = covariance (V^-1 m + F' S^-1 (y - o)).

    Raises:
        TrainingError: see `Fit.last_layer`.

    Source:
        Bishop (2006), Pattern Recognition and Machine Learning, equations 3.50, 3.51 and 3.86.
    """
    program = trace(model, *args, **kwargs)
    name = predicted_site(program, member, site, _OWNER)
    if program.sites[name].role != "observed":
        raise TrainingError(f"{_OWNER}: site {name!r} has no observation; give the data, as for `lc.train`.")
    kinds, observations = _statements(program)
    _check_normal(program, kinds, name, free)
    sites = {n: program.sites[n].shape for n in free}
    given = {n: v for n, v in member.items() if n not in free}
    f = _regression(program, name, given, sites)
    prior = moments(program, program.data, given)
    m, v = (np.concatenate([np.ravel(np.asarray(prior[n][k], float)) for n in sites]) for k in (0, 1))
    residual = observations[name] - f.offset - f.design @ m
    precision = np.diag(1 / v) + f.design.T @ (f.design / f.noise[:, None])
    lower = np.linalg.cholesky(precision)
    half = np.linalg.solve(lower, f.design.T @ (residual / f.noise))
    covariance = np.linalg.inv(precision)
    log_det = 2 * np.log(np.diag(lower)).sum() + np.log(v).sum() + np.log(f.noise).sum()
    log_evidence = -0.5 * (residual.size * np.log(2 * np.pi) + log_det + (residual**2 / f.noise).sum() - (half**2).sum())
    return LastLayer(model, given, name, sites, m + np.linalg.solve(lower.T, half), covariance, float(log_evidence))


def _regression(program: ModelProgram, name: str, given: Mapping[str, Any], sites: Mapping[str, tuple[int, ...]]) -> _Regression:
    """The mean of a site as a linear regression on some others.

    Raises:
        TrainingError: it is none, or its variance depends on them.
    """
    weights = {n: jnp.zeros(shape, program.sites[n].dtype) for n, shape in sites.items()}

    def of(which: int) -> Callable[..., Any]:
        return lambda w, data, values: jnp.ravel(expected(program, name, data, {**values, **w})[which])

    arguments = (weights, tuple(program.data), dict(given))
    mean, variance = (affine_in(of(which), *arguments) for which in (0, 1))
    if mean is None:
        raise TrainingError(f"{_OWNER}: the mean of site {name!r} is not affine in {list(sites)}: {why_not_affine(of(0), *arguments)}.")
    if variance is None or np.any(np.asarray(variance.design())):
        raise TrainingError(f"{_OWNER}: the variance of site {name!r} depends on {list(sites)}; leave those it depends on out of `free`.")
    blocks = mean.dense()
    design = [np.asarray(blocks[n], float).reshape(len(np.ravel(mean.offset)), -1) for n in sites]
    return _Regression(np.concatenate(design, axis=1), np.asarray(mean.offset, float), np.asarray(variance.offset, float))


def _statements(program: ModelProgram) -> tuple[dict[str, type], dict[str, np.ndarray]]:
    """The class of each sample site's distribution, and the observations, ravelled, by site."""
    kinds: dict[str, type] = {}
    observations: dict[str, np.ndarray] = {}

    def rule(spec: Spec, operands: Sequence[Any], u: Any) -> tuple[Any, Any]:
        if spec.kind == "sample":
            spec.apply(lambda d, scale, obs: kinds.setdefault(spec.name, type(peel(d)[0])) and jnp.zeros(()), operands)
        value = jnp.zeros(spec.shape, spec.dtype) if spec.latent else site_value(spec, operands, u)
        if spec.observed:
            observations[spec.name] = np.ravel(np.asarray(value, float))
        return value, None

    walk(program.jaxpr, program.data, rule, {})
    return kinds, observations


def _check_normal(program: ModelProgram, kinds: Mapping[str, type], name: str, free: Sequence[str]) -> None:
    """Priors and likelihood are normal, and no prior of the layer depends on another of its sites."""
    for site in [*free, name]:
        if kinds[site] is not dist.Normal:
            what, kind = "a prior" if site in free else "a likelihood", kinds[site].__name__
            raise TrainingError(f"{_OWNER}: site {site!r} has {what} {kind}; Normal expected. Sample the layer: `fit.given`.")
    between = [(e.parent, e.child) for e in edges(program) if e.parent in free and e.child in free]
    if between:
        raise TrainingError(f"{_OWNER}: the prior of site {between[0][1]!r} depends on {between[0][0]!r}; leave one of them out of `free`.")
