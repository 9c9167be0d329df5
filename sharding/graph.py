"""A program as values and the operations between them, so that a layout can flow through all of it.

Calls are inlined. A scan, a while loop or a choice between branches keeps its regions; between a value outside and the one that stands for
it inside there is a link, an operation with one factor for each dimension and nothing to compute. So one worklist reaches a fixpoint
through loops of any depth: the carry of a loop is a link between its start, its value as the body begins and ends, and its result.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np

from ..transforms.equations import CHECKPOINTS, body_of
from ..transforms.jax_compat import JaxprEqn, Literal, open_jaxpr, scan_layout, written_out
from ..transforms.source_lines import source_line
from .factors import Factor
from .rules import rule_of

__all__ = ["Choice", "Graph", "Node", "Region", "graph_of"]


class Node(NamedTuple):
    """An operation, or a link.

    Attributes:
        number: its place in `Graph.nodes`.
        operands: numbers of values, or literals.
        results: numbers of values. A link has none: all its values are operands.
        factors: along which it may be split.
        equation: a `JaxprEqn`; None of a link.
        rule: a `Rule`; None of a link.
        around: the calls and loops that it stands in, outermost first.
    """

    number: int
    operands: tuple[Any, ...]
    results: tuple[int, ...]
    factors: tuple[Factor, ...]
    equation: Any = None
    rule: Any = None
    around: tuple[JaxprEqn, ...] = ()

    @property
    def place(self) -> str:
        """The user's line."""
        equations = [*self.around, *((self.equation,) if self.equation is not None else ())]
        return source_line(equations[-1], equations[:-1]) if equations else "carry=..."

    @property
    def linear(self) -> tuple[int, ...]:
        """Numbers of the operands in which it is linear, together where there are several."""
        return self.rule.linear if self.rule is not None else ()

    @property
    def operation(self) -> str:
        if self.equation is not None:
            return self.equation.primitive.name
        return f"boundary of {self.around[-1].primitive.name}" if self.around else "result that keeps the layout of an argument"


class Choice(NamedTuple):
    """A scan, a while loop or a choice between branches: its regions, and what goes in and comes out.

    Attributes:
        kind: "scan", "while" or "cond".
        operands: numbers of values, or literals, in the order of the equation.
        results: numbers of values.
        regions: (body,), (condition, body) or the branches.
    """

    kind: str
    equation: JaxprEqn
    operands: tuple[Any, ...]
    results: tuple[int, ...]
    regions: tuple["Region", ...]


@dataclass
class Region:
    """A stretch of program without control flow, but for what is nested in it.

    Attributes:
        inputs: numbers of values.
        outputs: numbers of values, or literals.
        steps: in program order.
        constants: number of a value -> the array that it is.
    """

    inputs: list[int] = field(default_factory=list)
    outputs: list[Any] = field(default_factory=list)
    steps: list[Node | Choice] = field(default_factory=list)
    constants: dict[int, Any] = field(default_factory=dict)


@dataclass
class Graph:
    """A whole program.

    Attributes:
        shapes, dtypes: of each value.
        nodes: operations and links.
        neighbours: for each value the numbers of the nodes that it is an operand or a result of.
        num_uses: for each value how often it is read: by operations, loops and as an output.
        definition: value -> the node that computes it; absent of inputs and of what loops give.
        reader: value -> the last operation that reads it.
        tags: name -> values named by `tag`.
        top: the outermost region; its inputs are those of the function, and then its constants.
        constants: the arrays of those last inputs.
        known: value -> the numbers that it holds, where they are part of the program; None where they were looked for in vain.
        even: values that cannot be padded.
    """

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    dtypes: list[Any] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    neighbours: list[list[int]] = field(default_factory=list)
    num_uses: list[int] = field(default_factory=list)
    definition: dict[int, Node] = field(default_factory=dict)
    reader: dict[int, Node] = field(default_factory=dict)
    tags: dict[str, list[int]] = field(default_factory=dict)
    top: Region = field(default_factory=Region)
    constants: list[Any] = field(default_factory=list)
    known: dict[int, Any] = field(default_factory=dict)
    even: set[int] = field(default_factory=set)

    def value(self, aval: Any) -> int:
        self.shapes.append(tuple(aval.shape))
        self.dtypes.append(aval.dtype)
        self.neighbours.append([])
        self.num_uses.append(0)
        return len(self.shapes) - 1

    def node(self, operands: Sequence[Any], results: Sequence[int], factors: Sequence[Factor], **rest: Any) -> Node:
        node = Node(len(self.nodes), tuple(operands), tuple(results), tuple(factors), **rest)
        self.nodes.append(node)
        for v in dict.fromkeys([*(x for x in operands if isinstance(x, int)), *results]):
            self.neighbours[v].append(node.number)
        return node

    def read(self, atoms: Sequence[Any]) -> None:
        for x in atoms:
            if isinstance(x, int):
                self.num_uses[x] += 1

    def drop(self, step: "Node | Choice") -> None:
        """Let a step read nothing, and nothing spread through it."""
        for x in step.operands:
            if isinstance(x, int):
                self.num_uses[x] -= 1
        if isinstance(step, Node):
            for v in {*(x for x in step.operands if isinstance(x, int)), *step.results}:
                self.neighbours[v].remove(step.number)

    def link(self, values: Sequence[Any], shifts: Sequence[int], around: tuple[JaxprEqn, ...] = ()) -> None:
        """Let values have one layout; `shifts` counts their leading dimensions that the others lack. Literals have none."""
        pairs = [(v, shift) for v, shift in zip(values, shifts, strict=True) if isinstance(v, int)]
        if len(pairs) < 2:
            return
        first, shift = pairs[0]
        sizes = self.shapes[first][shift:]
        factors = [Factor(tuple(d + s for _, s in pairs), (), size) for d, size in enumerate(sizes) if size > 1]
        if factors:
            self.node([v for v, _ in pairs], (), factors, around=around)


def graph_of(closed: Any) -> Graph:
    """The graph of a closed jaxpr."""
    jaxpr, consts = open_jaxpr(closed)
    graph = Graph(constants=list(consts))
    region = graph.top
    inputs = [graph.value(x.aval) for x in jaxpr.invars]
    constants = [graph.value(x.aval) for x in jaxpr.constvars]
    region.inputs = inputs + constants
    graph.known.update(zip(constants, consts, strict=True))
    env = dict(zip([*jaxpr.invars, *jaxpr.constvars], region.inputs, strict=True))
    _Builder(graph).fill(region, jaxpr, env, ())
    _prune(graph)
    return graph


def _prune(graph: Graph) -> None:
    """Drop what no result needs: a call may give more than is read, and of an inlined solve nobody reads what is for its transpose."""
    live: set[int] = set()

    def needed(step: Node | Choice) -> bool:
        return any(v in live for v in step.results) or bool(step.equation is not None and step.equation.effects)

    def walk(region: Region) -> None:
        live.update(x for x in region.outputs if isinstance(x, int))
        kept: list[Node | Choice] = []
        for step in reversed(region.steps):
            if not needed(step):
                graph.drop(step)
                continue
            kept.append(step)
            live.update(x for x in step.operands if isinstance(x, int))
            if isinstance(step, Choice):
                for inner in step.regions:
                    walk(inner)
            else:
                for x in step.operands:
                    if isinstance(x, int):
                        graph.reader.setdefault(x, step)
        region.steps = kept[::-1]

    walk(graph.top)


def _solve_of(eqn: JaxprEqn, operands: list[Any]) -> tuple[Any, list[Any]]:
    """The program that a linear solve runs, and its operands: its own constants and the right-hand side. The rest is for derivatives."""
    lengths = eqn.params["const_lengths"]
    before = lengths.matvec + lengths.vecmat
    return eqn.params["jaxprs"].solve, [*operands[before : before + lengths.solve], *operands[sum(lengths) :]]


class _Builder:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def fill(self, region: Region, jaxpr: Any, env: dict[Any, Any], around: tuple[JaxprEqn, ...]) -> None:
        """Write an open jaxpr into a region; its outputs become the region's."""
        region.outputs = self.equations(region, jaxpr, env, around)
        self.graph.read(region.outputs)

    def equations(self, region: Region, jaxpr: Any, env: dict[Any, Any], around: tuple[JaxprEqn, ...]) -> list[Any]:
        def read(x: Any) -> Any:
            return x if isinstance(x, Literal) else env[x]

        for eqn in jaxpr.eqns:
            operands = [read(x) for x in eqn.invars]
            env.update(zip(eqn.outvars, self.equation(region, eqn, operands, around), strict=True))
        return [read(x) for x in jaxpr.outvars]

    def equation(self, region: Region, eqn: JaxprEqn, operands: list[Any], around: tuple[JaxprEqn, ...]) -> Sequence[Any]:
        if eqn.primitive.name == "device_put":  # where values lie is said by layouts
            return operands
        if eqn.primitive.name == "custom_linear_solve":
            body, operands = _solve_of(eqn, operands)
        else:
            body = body_of(eqn) or written_out(eqn)
        if body is not None:
            return self.call(region, eqn, body, operands, around)
        inside = {"scan": self.scan, "while": self.loop, "cond": self.branches}.get(eqn.primitive.name)
        results = [self.graph.value(v.aval) for v in eqn.outvars]
        if inside is None:
            self.operation(region, eqn, operands, results, around)
        else:
            regions = inside(eqn, operands, results, (*around, eqn))
            self.graph.read(operands)
            region.steps.append(Choice(eqn.primitive.name, eqn, tuple(operands), tuple(results), tuple(regions)))
        return results

    def operation(
        self, region: Region, eqn: JaxprEqn, operands: Sequence[Any], results: Sequence[int], around: tuple[JaxprEqn, ...]
    ) -> None:
        graph = self.graph
        if results and all(0 in graph.shapes[v] and hasattr(graph.dtypes[v], "itemsize") for v in results) and not eqn.effects:
            region.constants.update((v, np.zeros(graph.shapes[v], graph.dtypes[v])) for v in results)  # nothing is to be computed
            return
        rule = rule_of(eqn)
        node = graph.node(operands, results, rule.factors(eqn), equation=eqn, rule=rule, around=around)
        graph.read(operands)
        graph.definition.update((v, node) for v in results)
        if eqn.primitive.name == "name":
            graph.tags.setdefault(eqn.params["name"], []).extend(results)
        region.steps.append(node)

    def call(self, region: Region, eqn: JaxprEqn, body: Any, operands: list[Any], around: tuple[JaxprEqn, ...]) -> list[Any]:
        inner, consts = open_jaxpr(body)
        if eqn.primitive.name in CHECKPOINTS and eqn.params.get("differentiated") and eqn.params.get("prevent_cse"):
            operands = self.barrier(region, operands, (*around, eqn))
        constants = self.constants(region, inner.constvars, consts)
        env = dict(zip([*inner.constvars, *inner.invars], [*constants, *operands], strict=True))
        return self.equations(region, inner, env, (*around, eqn))

    def barrier(self, region: Region, operands: list[Any], around: tuple[JaxprEqn, ...]) -> list[Any]:
        """What is computed again from here on must not be merged with what was computed before, as in JAX's own rule."""
        graph = self.graph
        read = [x for x in operands if isinstance(x, int)]
        traced = jax.make_jaxpr(jax.lax.optimization_barrier)([jax.ShapeDtypeStruct(graph.shapes[v], graph.dtypes[v]) for v in read])
        eqn = open_jaxpr(traced)[0].eqns[0]
        results = [graph.value(v.aval) for v in eqn.outvars]
        self.operation(region, eqn, read, results, around)
        made = iter(results)
        return [next(made) if isinstance(x, int) else x for x in operands]

    def constants(self, region: Region, variables: Sequence[Any], arrays: Sequence[Any]) -> list[int]:
        """Values for what a nested program closes over."""
        values = [self.graph.value(x.aval) for x in variables]
        region.constants.update(zip(values, arrays, strict=True))
        self.graph.known.update(region.constants)
        return values

    def region(self, closed: Any, around: tuple[JaxprEqn, ...]) -> Region:
        jaxpr, consts = open_jaxpr(closed)
        region = Region(inputs=[self.graph.value(x.aval) for x in jaxpr.invars])
        constants = self.constants(region, jaxpr.constvars, consts)
        self.fill(region, jaxpr, dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *region.inputs], strict=True)), around)
        return region

    def scan(self, eqn: JaxprEqn, operands: list[Any], results: list[int], around: tuple[JaxprEqn, ...]) -> Iterator[Region]:
        body = self.region(eqn.params["jaxpr"], around)
        num_consts, num_carry = scan_layout(eqn)
        xs = num_consts + num_carry
        for outer, inner in zip(operands[:num_consts], body.inputs[:num_consts], strict=True):
            self.graph.link((outer, inner), (0, 0), around)
        carries = zip(operands[num_consts:xs], body.inputs[num_consts:xs], body.outputs[:num_carry], results[:num_carry], strict=True)
        for values in carries:
            self.graph.link(values, (0, 0, 0, 0), around)
        for outer, inner in zip([*operands[xs:], *results[num_carry:]], [*body.inputs[xs:], *body.outputs[num_carry:]], strict=True):
            self.graph.link((outer, inner), (1, 0), around)
        return iter((body,))

    def loop(self, eqn: JaxprEqn, operands: list[Any], results: list[int], around: tuple[JaxprEqn, ...]) -> Iterator[Region]:
        condition, body = self.region(eqn.params["cond_jaxpr"], around), self.region(eqn.params["body_jaxpr"], around)
        of_condition, of_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
        consts = of_condition + of_body
        for outer, inner in zip(operands[:consts], [*condition.inputs[:of_condition], *body.inputs[:of_body]], strict=True):
            self.graph.link((outer, inner), (0, 0), around)
        for values in zip(operands[consts:], condition.inputs[of_condition:], body.inputs[of_body:], body.outputs, results, strict=True):
            self.graph.link(values, (0,) * 5, around)
        return iter((condition, body))

    def branches(self, eqn: JaxprEqn, operands: list[Any], results: list[int], around: tuple[JaxprEqn, ...]) -> Iterator[Region]:
        regions = [self.region(branch, around) for branch in eqn.params["branches"]]
        for values in zip(operands[1:], *(region.inputs for region in regions), strict=True):
            self.graph.link(values, (0,) * len(values), around)
        for values in zip(results, *(region.outputs for region in regions), strict=True):
            self.graph.link(values, (0,) * len(values), around)
        return iter(regions)
