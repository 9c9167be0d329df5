"""What a model's jaxpr knows of one site: everything about a `sample` statement except its arrays.

A distribution is a pytree. Its array leaves become operands of the site's equation; everything else (Python scalars, shapes, the
classes) stays here, so that `Binomial(10)` or `Uniform(0, 1)` mean exactly what they mean outside a trace. Leaves are ordered by
their field's name: NumPyro builds its field tuples from sets, so their own order depends on Python's hash seed.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.tree_util import default_registry, tree_flatten, tree_unflatten
from numpyro.distributions import Distribution, ExpandedDistribution, Independent, MaskedDistribution, biject_to
from numpyro.distributions.transforms import Transform

from ..transforms import ModelError
from ..transforms.keys import jax_key
from ..transforms.structure import value_key

__all__ = ["Plate", "Spec", "distribution_name", "drawn", "is_array", "join_distribution", "peel", "split_distribution"]


@dataclass(frozen=True)
class Plate:
    """One plate around a site: its name, its size, and the batch dimension it occupies, counted from the right (-1, -2, ...)."""

    name: str
    size: int
    dim: int


@dataclass(frozen=True, eq=False)
class Spec:
    """The static half of a site. Compared by identity, because a jaxpr's parameters must be hashable and specs are made once.

    Attributes:
        name: the site's name, unique in its model.
        kind: "sample", "factor" or "deterministic".
        shape, dtype: of the site's value, batch axes of `vmap` included.
        distribution: the distribution's name, for people to read.
        treedef, static, order: how to rebuild the distribution from its array leaves (see `join_distribution`).
        num_leaves: how many of the equation's operands are leaves of the distribution.
        observed: whether the value is given; then the operand after the leaves is the observation.
        scale: None, a Python number that multiplies the log probability, or "operand" if it is the last operand.
        event_dim: number of the value's rightmost dimensions that form one event.
        plates: the plates around the site, innermost first.
        vmaps: the `vmap` axes the site was batched over, innermost first: (size, axis of each operand or None).
        discrete: whether the support is discrete.
        unconstrained_shape: shape of the unconstrained value of one vmap example (None when there is no bijection).
        unit_jacobian: whether the bijection is the identity.
        support: the support, for people to read; parameters that are latent stand in it as shapes.
        imputed: whether the site is the latent part of a partly given one; then the operand after the leaves is the mask of its batch
            shape, True where it is missing.
        kept: whether the observation stays where observed sites are drawn anew: the past of a series that the loop continues.
        substituted: whether the value is `handlers.substitute`'s: it stays wherever sites are drawn, as it is no observation.
        shared: a handler's value, of more axes than the distribution, that reaches every step of a loop and every `vmap` example whole.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: Any
    distribution: str = ""
    treedef: Any = None
    static: tuple[Any, ...] = ()
    order: tuple[int, ...] = ()
    num_leaves: int = 0
    observed: bool = False
    scale: Any = None
    event_dim: int = 0
    plates: tuple[Plate, ...] = ()
    vmaps: tuple[tuple[int, tuple[int | None, ...]], ...] = ()
    discrete: bool = False
    unconstrained_shape: tuple[int, ...] | None = None
    unit_jacobian: bool = True
    support: Any = None
    imputed: bool = False
    kept: bool = False
    substituted: bool = False
    shared: bool = False

    def structure_key(self) -> tuple[Any, ...]:
        """What makes two specs the same, in every process: every field but the support, which follows from the distribution."""
        static = tuple((type(s).__name__, repr(s)) for s in self.static)
        scale = (type(self.scale).__name__, repr(self.scale))
        rank = {place: i for i, place in enumerate(self.order)}
        tree = None if self.treedef is None else _tree_key(self.treedef, iter(map(rank.__getitem__, range(len(rank)))))
        fields = (tree, self.num_leaves, self.observed, self.event_dim, self.plates, self.vmaps)
        fields = (*fields, self.imputed, self.kept, self.substituted)
        return (self.name, self.kind, self.shape, str(self.dtype), static, scale, *fields)

    @property
    def latent(self) -> bool:
        return self.kind == "sample" and not self.observed

    def batched(self, size: int, axes: Sequence[int | None]) -> "Spec":
        """This site under one more `vmap` of `size` examples."""
        return replace(self, shape=(size, *self.shape), vmaps=(*self.vmaps, (size, tuple(axes))))

    def apply(self, function: Callable[..., Any], operands: Sequence[Any], *values: Any) -> Any:
        """`function(distribution, scale, observation, *values)`, mapped over the vmap axes of the site.

        Args:
            function: works on one example. The observation is the mask of an imputed site, None of another latent one.
            operands: the operands of the site's equation.
            values: further arguments, batch axes leading.
        """

        def one(operands: Sequence[Any], *values: Any) -> Any:
            leaves, rest = operands[: self.num_leaves], list(operands[self.num_leaves :])
            dist = None if self.treedef is None else join_distribution(self, leaves)
            observation = rest.pop(0) if self.observed or self.imputed or self.kind == "deterministic" else None
            return function(dist, rest.pop() if rest else self.scale, observation, *values)

        for size, axes in self.vmaps:
            one = jax.vmap(one, in_axes=(list(axes), *(0 for _ in values)), axis_size=size)
        return one(list(operands), *values)

    def bijection(self, dist: Distribution) -> Transform:
        """The bijection from unconstrained space onto the support, or a `ModelError` that names the site."""
        try:
            return biject_to(dist.support)
        except NotImplementedError as e:
            raise ModelError(
                f"site {self.name!r} is latent and its support, {dist.support}, has no bijection from unconstrained space "
                f"({distribution_name(dist)}). Gradient-based inference needs one: observe the site, marginalise it, or write the model "
                "with a distribution on the reals, an interval, the positive numbers, a simplex or a matrix constraint of NumPyro."
            ) from e


def is_array(x: Any) -> bool:
    return isinstance(x, (jax.Array, np.ndarray, np.generic))


def split_distribution(dist: Distribution, name: str) -> tuple[list[Any], Any, tuple[Any, ...], tuple[int, ...]]:
    """Take a distribution apart: (array leaves, treedef, static leaves, order).

    `order[i]` is the place, among the flat leaves, of the i-th operand (arrays) or static leaf (the rest, after the arrays).
    """
    leaves, treedef = tree_flatten(dist)
    paths = list(_leaf_paths(dist))
    by_name = sorted(range(len(leaves)), key=lambda i: paths[i])
    arrays = [i for i in by_name if is_array(leaves[i])]
    statics = [i for i in by_name if not is_array(leaves[i])]
    for i in statics:
        if not isinstance(leaves[i], (bool, int, float, complex)):
            raise ModelError(
                f"site {name!r}: parameter {'.'.join(map(str, paths[i]))} of {distribution_name(dist)} is a {type(leaves[i]).__name__}; "
                "expected a number or an array. Convert it, for example with `jnp.asarray`, before it enters the model."
            )
    for attribute, value in vars(dist).items():
        if any(isinstance(x, Tracer) for cell in getattr(value, "__closure__", None) or () for x in _cell_leaves(cell)):
            raise ModelError(
                f"site {name!r}: {attribute} of {distribution_name(dist)} is a function that reads a value of the model from around "
                "it, and such a distribution cannot be taken out of the trace. "
                "Write the process as a `jax.lax.scan` with a `sample` in its body."
            )
    static = tuple(leaves[i] for i in statics)
    _check_round_trip(dist, treedef, leaves, name)
    return [leaves[i] for i in arrays], treedef, static, (*arrays, *statics)


def _tree_key(treedef: Any, ranks: Iterator[int]) -> Hashable:
    """A distribution's tree as text, numbers and parameters, fields by name; `ranks` gives each leaf's place among operands and statics."""
    node = treedef.node_data()
    if node is None:
        return next(ranks)
    kind, aux = node
    children = [_tree_key(child, ranks) for child in treedef.children()]
    if issubclass(kind, Distribution):
        children = sorted(zip(kind.gather_pytree_data_fields(), children, strict=True), key=lambda pair: pair[0])
        aux = tuple(sorted(zip(kind.gather_pytree_aux_fields(), aux, strict=True), key=lambda pair: pair[0]))
    return kind, value_key(aux), tuple(children)


def join_distribution(spec: Spec, arrays: Sequence[Any]) -> Distribution:
    """The distribution of a site from the array leaves among its operands, as the model made it."""
    leaves: list[Any] = [None] * len(spec.order)
    for place, leaf in zip(spec.order, [*arrays, *spec.static], strict=True):
        leaves[place] = leaf
    return _validating(tree_unflatten(spec.treedef, leaves))


def _validating(dist: Distribution) -> Distribution:
    """Validation as it was. A pytree's round trip switches it off where it was left at NumPyro's default, which is on.

    It must stay: validation makes the density of a value outside a latent support zero, as in y ~ Uniform(0, theta).
    """
    if dist._validate_args is None:
        del dist._validate_args
    for value in vars(dist).values():
        for item in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(item, Distribution):
                _validating(item)
    return dist


def _leaf_paths(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    one_level = default_registry.flatten_one_level(node)
    if one_level is None:
        yield path
        return
    children = list(one_level[0])
    names = type(node).gather_pytree_data_fields() if isinstance(node, Distribution) else [f"{i:06d}" for i in range(len(children))]
    for name, child in zip(names, children, strict=True):
        yield from _leaf_paths(child, (*path, name))


def _check_round_trip(dist: Distribution, treedef: Any, leaves: list[Any], name: str) -> None:
    """A custom distribution that does not declare an attribute loses it in a pytree's round trip; say so now."""
    rebuilt = tree_unflatten(treedef, leaves)
    lost = sorted(k for k in vars(dist) if k not in vars(rebuilt) and not hasattr(Distribution, k) and not _is_lazy(dist, k))
    if lost:
        raise ModelError(
            f"site {name!r}: {distribution_name(dist)} loses its attribute {lost[0]!r} when it is taken apart and rebuilt, as JAX does. "
            f'Declare it in the class: `pytree_data_fields = ("{lost[0]}",)` for arrays, `pytree_aux_fields = ("{lost[0]}",)` for the rest.'
        )


def _cell_leaves(cell: Any) -> list[Any]:
    try:
        return jax.tree.leaves(cell.cell_contents)
    except ValueError:  # an empty cell
        return []


def _is_lazy(dist: Distribution, attribute: str) -> bool:
    return type(getattr(type(dist), attribute, None)).__name__ == "lazy_property"


def peel(dist: Distribution) -> tuple[Distribution, list[tuple[Any, int]]]:
    """What is left of a distribution without its wrappers, and its masks, outermost first: (mask, number of event dimensions there).

    A mask has the batch shape of its own level, or one that broadcasts to it.
    """
    masks = []
    while isinstance(dist, (MaskedDistribution, ExpandedDistribution, Independent)):
        if isinstance(dist, MaskedDistribution):
            masks.append((dist._mask, dist.event_dim))
        dist = dist.base_dist
    return dist, masks


def distribution_name(dist: Distribution) -> str:
    """The name of a distribution's class, without what was wrapped around it."""
    return type(peel(dist)[0]).__name__


def drawn(dist: Distribution, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> Any:
    """A sample; with JAX's own generator where a sampler takes no other, and the same numbers."""
    try:
        return dist.sample(key, sample_shape)
    except NotImplementedError:
        return dist.sample(jax_key(key), sample_shape)
