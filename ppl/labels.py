"""The labels of a plate's elements, in a form that every file format can store: numbers, strings, truth values, dates.

Python's dates and pandas' timestamps become `datetime64` (in UTC where they have a time zone), a period the moment it begins,
time differences `timedelta64`. What is none of these (a tuple, an interval, None) is labelled by its words.
"""

import datetime
from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["labels_of"]

_KINDS = "biufUMm"


def labels_of(coords: Iterable[Any]) -> list[Any]:
    """One label for each element of `coords`: a list, an array, a pandas Index or Series, an xarray DataArray, an iterator."""
    items = np.asarray(coords) if hasattr(coords, "__array__") else list(coords)
    array = _storable(items)
    if array is None:
        items = [_label(item) for item in items]
        array = np.asarray(items) if len({_family(item) for item in items}) == 1 else np.asarray([str(item) for item in items])
    return list(array) if array.dtype.kind in "Mm" else array.tolist()


def _storable(items: Any) -> np.ndarray | None:
    """The labels as one array, if they are one without a look at each of them."""
    try:
        array = np.asarray(items)
    except ValueError:  # ragged
        return None
    return array if array.ndim == 1 and array.dtype.kind in _KINDS else None


def _label(item: Any) -> Any:
    begins = getattr(item, "to_timestamp", None)  # pandas.Period has it
    item = item if begins is None else begins()
    if isinstance(item, datetime.datetime) and item.tzinfo is not None:
        item = item.astimezone(datetime.UTC).replace(tzinfo=None)
    exactly = getattr(item, "to_numpy", None)  # pandas.Timestamp, pandas.Timedelta
    if exactly is not None and isinstance(item, (datetime.date, datetime.timedelta)):
        return exactly()
    if isinstance(item, (datetime.datetime, datetime.timedelta)):
        return np.datetime64(item, "us") if isinstance(item, datetime.datetime) else np.timedelta64(item, "us")
    if isinstance(item, datetime.date):
        return np.datetime64(item, "D")
    if isinstance(item, bytes):
        return item.decode(errors="replace")
    return item if isinstance(item, str) or (np.ndim(item) == 0 and np.asarray(item).dtype.kind in _KINDS) else str(item)


def _family(item: Any) -> str:
    """Labels of one family stand in one array without changing their meaning."""
    kind = np.asarray(item).dtype.kind
    return "number" if kind in "iuf" else kind
