"""Labels of a plate: whatever holds them, they come out as numbers, strings or dates that a file can store."""

import datetime

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import luciole as lc
from luciole import dist
from luciole.ppl.labels import labels_of

DAYS = ["2024-01-01", "2024-01-02"]
STAMPS = pd.to_datetime(DAYS)
DATES = {
    "days": np.array(DAYS, "M8[D]"),
    "nanoseconds": np.array(DAYS, "M8[ns]"),
    "dates": [datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)],
    "datetimes": [datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 2)],
    "timestamps": list(STAMPS),
    "index": STAMPS,
    "series": pd.Series(STAMPS),
    "dataarray": xr.DataArray(STAMPS),
    "zone": STAMPS.tz_localize("UTC"),
    "periods": pd.period_range(DAYS[0], periods=2, freq="D"),
    "mixed": [np.datetime64(DAYS[0]), datetime.date(2024, 1, 2)],
}


@pytest.mark.parametrize("name", DATES)
def test_dates_become_datetime64(name):
    found = np.asarray(labels_of(DATES[name]))
    assert found.dtype.kind == "M"
    assert (found == np.array(DAYS, "M8[ns]")).all()


def test_a_time_zone_is_reckoned_into_utc():
    found = labels_of(STAMPS.tz_localize("Europe/Berlin"))
    assert found[0] == np.datetime64("2023-12-31T23:00")


@pytest.mark.parametrize(
    ("coords", "expected"),
    [
        (range(2), [0, 1]),
        (np.array([1.5, 2.0]), [1.5, 2.0]),
        (iter("ab"), ["a", "b"]),
        (pd.Categorical(["b", "a"]), ["b", "a"]),
        (pd.array([1, 2], dtype="Int64"), [1, 2]),
        (["a", 1], ["a", "1"]),
        ([("a", 1), ("b", 2)], ["('a', 1)", "('b', 2)"]),
        (pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]), ["('a', 1)", "('b', 2)"]),
        (pd.interval_range(0, 2), ["(0, 1]", "(1, 2]"]),
        ([None, "a"], ["None", "a"]),
        ([datetime.date(2024, 1, 1), "later"], ["2024-01-01", "later"]),
        ([True, False], [True, False]),
        ([b"a", b"b"], ["a", "b"]),
    ],
)
def test_other_labels(coords, expected):
    assert labels_of(coords) == expected


def test_time_differences():
    assert labels_of([datetime.timedelta(1), datetime.timedelta(2)]) == labels_of(pd.to_timedelta([1, 2], unit="D"))


def test_of_a_plate():
    def model():
        with lc.plate("day", 2, coords=DATES["dates"]):
            lc.sample("y", dist.Normal(0, 1))

    assert lc.trace(model).coords == {"day": [np.datetime64(d) for d in DAYS]}
