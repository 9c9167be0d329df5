"""Means with less noise: what is known to be zero on average is fitted to what is averaged, and taken away.

Restarts from a fit are made of standard normal numbers z, so that z_i, z_i^2 - 1 and z_i z_j are zero on average. The gradient of the
bound on a Gaussian posterior is a polynomial of second degree in z, so that with enough restarts nothing is left of its noise.

Source: control variates with coefficients by least squares, Owen (2013), "Monte Carlo theory, methods and examples", section 8.9. The bias
is of the order of one over the number of restarts, and zero where the polynomial fits.
"""

import math

import numpy as np

__all__ = ["controls", "mean_with_controls"]

_SHARE = 2  # at least so many restarts for each coefficient


def controls(normals: np.ndarray) -> np.ndarray:
    """(restart, control) from (restart, dim): as high a degree as there are restarts for."""
    number, dim = normals.shape
    rows, columns = np.tril_indices(dim, -1)
    kinds = [normals, normals**2 - 1, normals[:, rows] * normals[:, columns]] if dim else []
    chosen: list[np.ndarray] = []
    for kind in kinds:
        if _SHARE * (1 + sum(c.shape[1] for c in chosen) + kind.shape[1]) > number:
            break
        chosen.append(kind)
    return np.concatenate(chosen, axis=1) if chosen else np.zeros((number, 0))


def mean_with_controls(values: np.ndarray, zero: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over the first axis of values (restart, ...) and its standard error, given controls (restart, control) of mean zero; NaN of
    nothing."""
    if not len(values):
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    design = np.concatenate([np.ones((len(flat), 1)), zero], axis=1)
    inverse = np.linalg.pinv(design)
    coefficients = inverse @ flat
    free = len(flat) - design.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        variance = np.sum((flat - design @ coefficients) ** 2, axis=0) / free if free else np.full(flat.shape[1], np.nan)
    stderr = np.sqrt(variance * (inverse[0] @ inverse[0]))
    return coefficients[0].reshape(values.shape[1:]), stderr.reshape(values.shape[1:])
