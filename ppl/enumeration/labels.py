"""Labels: which axis of a value runs over the elements of a discrete site.

N elements of a site with K states share one axis of K states, and not N axes of K. That is right only as long as element n of a value
depends on element n of the site alone, so every axis of a value may carry a label, "this is axis 0 of site z", that equations hand on.
Two labels that meet in one axis, element by element, are the same from then on: plates are found and need not be declared.

Rows may pick elements, `z[item]` with an index that is data: their axis has a label of its own that knows which element each row reads.
What depends on several rows of one element is added up by that index when the site is summed out.
"""

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["Label", "distinct", "met"]


class Label:
    """One axis of a site, the turns of a loop, or rows that pick elements.

    size: its length. words: how messages and tables name it. picks: (label, index), for each label of which these rows pick elements, and
    which they pick, (size,).
    """

    __slots__ = ("_same", "picks", "size", "words")

    def __init__(self, size: int, words: str, picks: "tuple[tuple[Label, Any], ...]" = ()) -> None:
        self.size, self.words, self.picks, self._same = size, words, picks, self

    @property
    def root(self) -> "Label":
        """The label that stands for all that were united with this one."""
        while self._same is not self:
            self._same = self._same._same
            self = self._same
        return self

    def unite(self, other: "Label") -> "Label":
        """From now on both are one; returns it."""
        first, second = self.root, other.root
        if first is not second:
            first.picks = (*first.picks, *second.picks)
            second._same = first
        return first

    @property
    def reached(self) -> "list[Label]":
        """The label, those of which its rows pick elements, and so on."""
        return [self.root, *(r for label, _ in self.root.picks for r in label.reached)]


def met(labels: Iterable[Label | None]) -> Label | None:
    """The label of an axis in which these meet element by element; None marks an axis without one."""
    found: Label | None = None
    for label in labels:
        if label is not None:
            found = label.root if found is None else found.unite(label)
    return found


def distinct(labels: Sequence[Label]) -> bool:
    """Whether no two of these labels are one."""
    roots = [label.root for label in labels]
    return len({id(r) for r in roots}) == len(roots)
