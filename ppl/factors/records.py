"""What a model's factor is to those who subsample it: a likelihood family, rows, and the way from a position to the rows' coefficients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jax import Array

__all__ = ["POWER", "Factor", "Family", "Rows"]

POWER = "likelihood power"


class Family(NamedTuple):
    """Which likelihood of a linear predictor; hashable, and equal for two models that have the same one.

    Attributes:
        distribution: the class of the distribution, as the model has it.
        link: how its parameter depends on the predictor eta: "identity", "logit", "probit", "log", "softmax", "reference softmax" (eta
            are the logits of classes 1, 2, ... against class 0, whose logit is 0), "traced" (in another way; `log_likelihood` knows).
        predictors: 1, or the number of logits.
        log_likelihood: (eta: () or (predictors,), row: scalars by name, shared: scalars by name) -> (), nats. Pure JAX.
    """

    distribution: type
    link: str
    predictors: int
    log_likelihood: Callable[[Any, dict[str, Any], dict[str, Any]], Any]


class Rows(NamedTuple):
    """The data, one row for each factor: eta_n = design[n] @ coefficients + offset[n].

    Attributes:
        design: (obs, d), perhaps a `HostDesign`. offset: (obs,), or (obs, predictors) where there are several.
        params: by name, (obs,) each: "value" is the observation, the others are the parameters of the likelihood that are data, and
            `POWER`, if the likelihoods of rows are raised to powers: s_n > 0, by which `handlers.scale` multiplies its log.
    """

    design: Any
    offset: Array
    params: dict[str, Array]


@dataclass(frozen=True, eq=False)
class Factor:
    """The likelihood of one observed site as a sum over rows, and the rest of the model:

        log p(x(u), y) + Jacobians = sum_n log_likelihood(eta_n, row n, shared(u)) + log_prior(data, u)
        eta_n = rows.design[n] @ c(u) + rows.offset[n]

    where u is the position, the unconstrained latent vector (dim,) in the order of `LogDensity.positions`.

    Attributes:
        site, plate: names; the plate is "" if the site stands in none.
        family: the likelihood of a row. rows: the data.
        coefficients: c, position (dim,) -> (d,), or (d, predictors) where there are several.
        shared: position (dim,) -> latent parameters of the likelihood that are no predictor, scalars by name; {} if there are none.
        log_prior: (data, position) -> everything but the site: priors, Jacobians and other factors, nats, ().
        data: those of the `LogDensity`, which `log_prior` reads; an array that stays in host memory, which it does not, is empty.
        columns: if every coefficient is a coordinate of the position, their numbers, in the shape of the coefficients:
            c = position[columns]. None if not.
        coefficient_matrix, coefficient_offset: if the coefficients are affine in the position, c.ravel() = matrix @ position + offset;
            (size of c, dim) and (size of c,). None if not.
        site_line: the user's line of the site.
        log_scales: (data, position) -> what the log density is larger by in coordinates that do not depend on latent scales, up to a
            constant: see `centred`. None if no site has a scale that is latent.
    """

    site: str
    plate: str
    family: Family
    rows: Rows
    coefficients: Callable[[Any], Array]
    shared: Callable[[Any], dict[str, Array]]
    log_prior: Callable[[Sequence[Any], Any], Array]
    columns: np.ndarray | None
    coefficient_matrix: Array | None
    coefficient_offset: Array | None
    data: Sequence[Any]
    site_line: str = ""
    log_scales: Callable[[Sequence[Any], Any], Array] | None = None
