"""What a prediction owes to each node of a graph: the integral of its gradient, from a graph of which nothing is written to all of it.

A node adds a vector to its graph's sum at every layer (its surroundings of 0, 1, 2 ... steps). `PackedGraphs.weight` multiplies these
vectors; all ones is the graph as it is, all zeros the baseline.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ...ppl import Graphs, PackedGraphs, trace
from ...ppl.molecules.drawing import draw_molecule, fragment
from ...ppl.moments import moments
from ...transforms import TrainingError, grad
from ...transforms.partial import split
from .expected import predicted_site

__all__ = ["Attribution", "attribute"]

_LAYERS = 32  # the most that a model may write; those it does not write have no gradient, and are cut off
_INTERVALS = (64, 512, 4096)  # of the path, until the sum over nodes is near enough to the change of the prediction
_TOLERANCE = 1e-5  # relative to that change where it is above one


@dataclass(frozen=True, eq=False)
class Attribution:
    """Contributions to predictions, in units of the prediction: prediction = baseline + sum of contributions + residual.

    Attributes:
        graphs: of which nodes they are.
        contributions: (all nodes, layers): of each node's surroundings of 0, 1, ... steps, the mean over members.
        prediction, baseline: (graphs,) for the graph, and for one that adds nothing to the sum.
        residual: (graphs,) what the integration leaves; see `attribute`.
    """

    graphs: Graphs
    contributions: np.ndarray
    prediction: np.ndarray
    baseline: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        return self.prediction - self.baseline - self._sums

    @property
    def _sums(self) -> np.ndarray:
        graph = np.repeat(np.arange(len(self.graphs)), self.graphs.num_nodes)
        return np.bincount(graph, self.contributions.sum(axis=1), len(self.graphs))

    def __getitem__(self, row: int) -> np.ndarray:
        """(nodes, layers), of one graph."""
        if not -len(self.graphs) <= row < len(self.graphs):
            raise IndexError(f"graph {row} of {len(self.graphs)}")
        stops = np.cumsum(self.graphs.num_nodes)
        return np.split(self.contributions, stops[:-1])[row]

    def strongest(self, row: int, count: int = 5) -> list[tuple[int, int, float]]:
        """(node, steps, contribution) of the surroundings of one graph that add or take the most."""
        table = self[row]
        order = np.argsort(-np.abs(table), axis=None)[:count]
        return [(int(n), int(s), float(table[n, s])) for n, s in zip(*np.unravel_index(order, table.shape), strict=True)]

    def substructures(self, row: int, count: int = 5) -> list[tuple[str, float]]:
        """(SMILES, contribution) of the same, of one molecule. Needs RDKit."""
        name = str(self.graphs.names[row])
        return [(fragment(name, node, steps), value) for node, steps, value in self.strongest(row, count)]

    def draw(self, row: int, size: tuple[int, int] = (350, 250), largest: float | None = None) -> Any:
        """One molecule as SVG, atoms blue where they add and red where they take. Needs RDKit; notebooks show it.

        Args:
            row: which. size: in pixels. largest: the contribution with the full colour; by default the molecule's largest.
        """
        return draw_molecule(str(self.graphs.names[row]), self[row].sum(axis=1), size, largest)


def attribute(model: Callable[..., Any], samples: Mapping[str, np.ndarray], site: str | None, args: tuple, kwargs: dict) -> Attribution:
    """The contribution of node a at layer l, with w the weights on what nodes add,

        integral from 0 to 1 of  d prediction / d w_al  at  w = t  dt.

    The path is cut into intervals. A network of linear pieces has one slope before a kink and one after it; where in an interval the kink
    lies follows from how far the prediction moves. So the integral is exact where no interval has two kinks of one graph, and
    contributions sum to the prediction minus the baseline, up to the residual, which is computed.

    Raises:
        TrainingError: see `Fit.attribution`.

    Source:
        Sundararajan, Taly and Yan (2017), Axiomatic attribution for deep networks, equation 1; in what nodes add to the sum, where the
        path is a straight line and the baseline a graph without nodes, instead of in the features.
    """
    leaves, tree = jax.tree.flatten((args, kwargs))
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Graphs)]
    if len(where) != 1:
        raise TrainingError(f"attribution: found {len(where)} `lc.Graphs` among the arguments, one expected.")
    graphs = leaves[where[0]]
    packed = graphs.packed()
    name = predicted_site(trace(model, *args, **kwargs), samples, site, "attribution")

    def predicted(values: Mapping[str, Any], weight: Any) -> Any:
        given = [replace(packed, weight=weight) if i == where[0] else leaf for i, leaf in enumerate(leaves)]
        call_args, call_kwargs = jax.tree.unflatten(tree, given)
        program = trace(model, *call_args, **call_kwargs)
        return moments(program, program.data, values)[name][0]

    members = [{n: v[i] for n, v in samples.items()} for i in range(len(next(iter(samples.values()))))]
    of_member = _integrated(predicted, members[0], packed)
    found = [of_member(member) for member in members]
    by_row, prediction, baseline = (np.mean([f[k] for f in found], axis=0) for k in range(3))
    used = np.flatnonzero(np.abs(by_row).sum(axis=0))
    if not used.size:
        raise TrainingError("attribution: the prediction depends on no sum over nodes (`lc.neural_fingerprint`, `lc.directed_messages`).")
    contributions = np.zeros((len(graphs.nodes), used[-1] + 1))
    is_node = packed.node >= 0
    contributions[packed.node[is_node]] = by_row[is_node, : contributions.shape[1]]
    return Attribution(graphs, contributions, prediction, baseline)


def _integrated(
    prediction: Callable[..., Any], example: Mapping[str, Any], packed: PackedGraphs
) -> Callable[[Mapping[str, Any]], tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """A function of a member's values: contributions by row of nodes, (N, layers), prediction and baseline, (graphs,).

    Args:
        prediction: (values, weight) -> (graphs,), traced once for all members. example: values of one.

    Raises:
        TrainingError: the prediction is not one number for each graph.
    """
    weight = jnp.ones((len(packed.nodes), _LAYERS), jnp.result_type(float))
    jaxpr, out = jax.make_jaxpr(prediction, return_shape=True)(example, weight)
    if out.shape != (len(packed),):
        raise TrainingError(f"attribution: the predicted site has shape {out.shape}; one number for each graph expected.")
    parts = split(jaxpr, len(jax.tree.leaves(example)))  # what comes before the sums is done once
    prepare = jax.jit(parts.prepare)

    @jax.jit
    def along(prepared: list[Any], points: Any) -> tuple[Any, Any, Any]:
        def total(weight: Any) -> Any:
            return parts.rest(prepared, [weight])[0]

        def at(t: Any) -> tuple[Any, Any, Any]:
            """Slopes by row, their sum over each graph, and the prediction."""
            by_row = grad(lambda w: jnp.sum(total(w)))(jnp.full_like(weight, t))
            return by_row, jax.ops.segment_sum(by_row.sum(axis=1), packed.graph, len(packed) + 1), total(jnp.full_like(weight, t))

        def add(carry: Any, ends: Any) -> tuple[Any, None]:
            integral, (slopes, slope, value) = carry
            t, step = ends
            after = at(t)
            share = _share(jnp.append((after[2] - value) / step, 0.0), slope, after[1])[packed.graph][:, None]
            return (integral + step * (share * slopes + (1 - share) * after[0]), after), None

        begin = at(points[0])
        (integral, end), _ = jax.lax.scan(add, (jnp.zeros_like(weight), begin), (points[1:], jnp.diff(points)))
        return integral, end[2], begin[2]

    def of_member(values: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        prepared, by_row, whole, nothing = prepare(jax.tree.leaves(values)), np.empty(0), np.empty(0), np.empty(0)
        for count in _INTERVALS:
            points = jnp.linspace(0, 1, count + 1, dtype=weight.dtype) ** 3  # kinks lie near the empty graph: sums grow with the graph
            by_row, whole, nothing = (np.asarray(x, float) for x in along(prepared, points))
            residual = np.bincount(packed.graph, by_row.sum(axis=1), len(packed) + 1)[: len(packed)] - (whole - nothing)
            if np.all(np.abs(residual) <= _TOLERANCE * np.maximum(1, np.abs(whole - nothing))):
                break
        return by_row, whole, nothing

    return of_member


def _share(mean: Any, before: Any, after: Any) -> Any:
    """How much of an interval has the slope that it begins with, if one kink lies in it: share * before + (1 - share) * after = mean.

    Two kinks that bend apart can have a mean slope outside of both, so that a share may be a little less than nothing or more than all.
    """
    apart = before - after
    share = (mean - after) / jnp.where(apart == 0, 1.0, apart)
    return jnp.where(apart == 0, 0.5, jnp.clip(share, -1.0, 2.0))
