"""The user's own inverse mass matrix: by site or as an array, checked, and laid out as the position vector is.

NumPyro lays its arrays out by the sites' names, in alphabetical order; the vector here follows the program. A dict by site, or by tuple of
sites as NumPyro returns it, means the same to both.
"""

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...transforms.errors import SamplerError
from .layout import Layout

__all__ = ["inverse_mass_of"]

_log = logging.getLogger("luciole")


def inverse_mass_of(kernel: str, given: Any, dense: bool, dim: int, dtype: Any, density: Any = None) -> np.ndarray:
    """The inverse mass matrix that a kernel starts with, of shape (dim,), or (dim, dim) if `dense`; the identity if none is given.

    Args:
        kernel: its name, for errors.
        given: None; an array of that shape, in program order; or a dict whose keys are sites or tuples of sites, of which each latent site
            is in one: variances (block,) or in the shape of the site, a number for all of a block's coordinates, or, if `dense`,
            a matrix (block, block), unconstrained and in the order of the key's sites.
        density: whose positions have the sites' names; needed for a dict.

    Raises:
        SamplerError: a shape or a site does not fit, or the matrix is not positive definite.
    """
    if given is None:
        return np.eye(dim, dtype=dtype) if dense else np.ones(dim, dtype)
    layout = None if density is None else Layout.of(density.positions)
    if isinstance(given, Mapping):
        matrix = _from_blocks(kernel, given, dense, layout).astype(dtype)
    else:
        matrix = _numeric(kernel, "inverse_mass_matrix", given).astype(dtype)
        matrix = np.diag(matrix) if dense and matrix.shape == (dim,) else matrix
        if layout is not None and len(layout.sites) > 1:
            _log.info("%s: inverse_mass_matrix is an array, read in program order: %s.", kernel, _order(layout))
    shape = (dim, dim) if dense else (dim,)
    if matrix.shape != shape:
        order = "" if layout is None else f", in program order: {_order(layout)}"
        raise SamplerError(
            f"{kernel}: inverse_mass_matrix has shape {matrix.shape}, {shape} expected with dense_mass={dense}: "
            f"the model has {dim} unconstrained dimensions{order}."
        )
    positive = _is_positive_definite(matrix) if dense else bool((matrix > 0).all() and np.isfinite(matrix).all())
    if not positive:
        raise SamplerError(
            f"{kernel}: inverse_mass_matrix is not positive definite; give an estimate of the posterior "
            f"{'covariance' if dense else 'variances'}, or None to have it adapted."
        )
    return matrix


def _from_blocks(kernel: str, given: Mapping[Any, Any], dense: bool, layout: Layout | None) -> np.ndarray:
    """The matrix of a dict by site or by tuple of sites; zero between two keys."""
    if layout is None:
        raise SamplerError(f"{kernel}: inverse_mass_matrix is a dict by site, and there is no model whose sites it could name.")
    blocks = [((key,) if isinstance(key, str) else tuple(key), value) for key, value in given.items()]
    named, known = [name for names, _ in blocks for name in names], [name for name, _, _ in layout.sites]
    unknown, missing = [n for n in named if n not in known], [n for n in known if n not in named]
    if unknown or missing or len(set(named)) < len(named):
        twice = sorted({n for n in named if named.count(n) > 1})
        found = {"unknown sites": unknown, "missing sites": missing, "sites given twice": twice}
        wrong = " and ".join(f"{words} {names}" for words, names in found.items() if names)
        raise SamplerError(f"{kernel}: inverse_mass_matrix has {wrong}; give each of {known} once, on its own or in a tuple of sites.")
    matrix = np.zeros((layout.dim, layout.dim) if dense else layout.dim)
    for names, value in blocks:
        where = np.concatenate([np.arange(*_span(layout, name)) for name in names])
        block = _block(kernel, names, value, layout, len(where), dense)
        if dense:
            matrix[np.ix_(where, where)] = block
        else:
            matrix[where] = block
    return matrix


def _block(kernel: str, names: tuple[str, ...], value: Any, layout: Layout, size: int, dense: bool) -> np.ndarray:
    """The block of a key: (size,), or (size, size) if `dense`."""
    key = names[0] if len(names) == 1 else names
    block = _numeric(kernel, f"inverse_mass_matrix[{key!r}]", value)
    own = next(shape for name, shape, _ in layout.sites if name == names[0]) if len(names) == 1 else None
    if block.shape in ((), own):
        block = np.broadcast_to(block, own or ()).reshape(-1) if own else np.broadcast_to(block, (size,))
    if dense and block.shape == (size,):
        block = np.diag(block)
    expected = (size, size) if dense else (size,)
    if block.shape != expected:
        also = f" or {own}" if own not in (None, (), (size,)) else ""
        raise SamplerError(
            f"{kernel}: inverse_mass_matrix[{key!r}] has shape {block.shape}, {expected}{also} expected with dense_mass={dense}: "
            "one number for each unconstrained coordinate of these sites, in this order."
        )
    return block


def _span(layout: Layout, site: str) -> tuple[int, int]:
    """Where a site's coordinates begin and end in the position vector."""
    start = 0
    for name, shape, _ in layout.sites:
        if name == site:
            return start, start + math.prod(shape)
        start += math.prod(shape)
    raise KeyError(site)


def _order(layout: Layout) -> str:
    """The vector's order, for people: mu [0], z [1:9]."""
    spans = {name: _span(layout, name) for name, _, _ in layout.sites}
    return ", ".join(f"{n} [{a}]" if b == a + 1 else f"{n} [{a}:{b}]" for n, (a, b) in spans.items())


def _numeric(kernel: str, name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except Exception:  # ragged lists, abstract values
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise SamplerError(
            f"{kernel}: {name} is {value!r}, an array of numbers, a dict of them by site, or None expected; "
            "write inverse_mass_matrix=None to have it adapted."
        )
    return array


def _is_positive_definite(matrix: np.ndarray) -> bool:
    if not np.allclose(matrix, matrix.T):
        return False
    try:
        return bool(np.isfinite(np.linalg.cholesky(matrix)).all())
    except np.linalg.LinAlgError:
        return False
