"""Directed graphs as mappings, node -> nodes that it leads to: what is reached, what is a cycle, in which order to visit.

Blocks of a program, its functions, the steps of a machine and the values that devices share are such graphs. Nothing here recurses, so
a chain may be as long as memory allows.
"""

from collections.abc import Iterable, Mapping, Set
from typing import Any, TypeVar

__all__ = ["components", "reachable", "reverse_postorder", "united"]

Node = TypeVar("Node")


def reachable(successors: Mapping[Node, Iterable[Node]], starts: Iterable[Node]) -> frozenset[Node]:
    """The nodes on some path from one of `starts`, these included."""
    seen: set[Node] = set()
    waiting = list(starts)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting.extend(successors[node])
    return frozenset(seen)


def united(sets: Iterable[Set[Node]]) -> list[frozenset[Node]]:
    """Unions of the sets that overlap, directly or through others; they are disjoint. An empty set stays by itself."""
    found: list[frozenset[Node]] = []
    for one in sets:
        meeting = [f for f in found if f & one]
        found = [f for f in found if not f & one] + [frozenset(one).union(*meeting)]
    return found


def components(successors: Mapping[Any, Iterable[Any]], order: Iterable[Any]) -> list[list[Any]]:
    """Strongly connected components, each after those that it leads to, its nodes sorted.

    Args:
        successors: of nodes that can be sorted; visited in sorted order.
        order: of the roots of the search.

    Source: Tarjan (1972), "Depth-first search and linear graph algorithms".
    """
    index: dict[Any, int] = {}
    low: dict[Any, int] = {}
    stack: list[Any] = []
    on: set[Any] = set()
    found: list[list[Any]] = []
    for root in order:
        if root in index:
            continue
        work = [(root, iter(sorted(successors[root])))]
        index[root] = low[root] = len(index)
        stack.append(root)
        on.add(root)
        while work:
            node, rest = work[-1]
            for following in rest:
                if following not in index:
                    index[following] = low[following] = len(index)
                    stack.append(following)
                    on.add(following)
                    work.append((following, iter(sorted(successors[following]))))
                    break
                if following in on:
                    low[node] = min(low[node], index[following])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    component = [stack.pop()]
                    while component[-1] != node:
                        component.append(stack.pop())
                    on.difference_update(component)
                    found.append(sorted(component))
    return found


def reverse_postorder(successors: Mapping[Any, Iterable[Any]], starts: Iterable[Any]) -> list[Any]:
    """The nodes reached from `starts`, each before those that it leads to, but for edges that close a cycle; successors in sorted order."""
    order: list[Any] = []
    seen: set[Any] = set()
    for start in starts:
        if start in seen:
            continue
        work = [(start, iter(sorted(successors[start])))]
        seen.add(start)
        while work:
            node, rest = work[-1]
            following = next((n for n in rest if n not in seen), None)
            if following is None:
                order.append(node)
                work.pop()
            else:
                seen.add(following)
                work.append((following, iter(sorted(successors[following]))))
    return order[::-1]
