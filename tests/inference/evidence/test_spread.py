"""Restarts that are split over devices: the same numbers, no collective on the way, and what is refused before anything runs."""

import re

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

import luciole as lc
from luciole import sharding as ls
from luciole.inference.evidence import host, sgd
from luciole.inference.evidence.spread import placement

RUN = {"step_size": 0.004, "num_steps": 12, "num_restarts": 16}
COLLECTIVE = re.compile(r"(all|reduce|collective)[-_](reduce|gather|scatter|permute|to[-_]all|broadcast)")


def over(number, axis="r", **more):
    return {"mesh": jax.make_mesh((number,), (axis,)), "tactics": [ls.ManualPartition({"restarts": 0}, axis=axis, **more)]}


def assert_same(found, expected, tolerance):
    assert (found.start, found.num_steps, found.best_step) == (expected.start, expected.num_steps, expected.best_step)
    for name in ("log_evidence", "training_loss", "log_likelihood", "test_log_likelihood"):
        if getattr(expected, name) is not None:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=tolerance, atol=tolerance, err_msg=name)
    np.testing.assert_allclose(found.samples["w"], expected.samples["w"], rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_every_device_follows_its_own_restarts(x64, conjugate, quiet, monkeypatch):
    """With minibatches of each restart; no collective in any program; and a twin."""
    problem, options, texts = conjugate.random(20, 3), RUN | {"batch_size": 5, "minibatches": "fresh"}, {}
    monkeypatch.setattr(sgd, "with_samples", lambda problem, plan, key, evidence, descended: evidence)
    whole = quiet(conjugate.model, jax.random.key(0), *problem, **options).log_evidence

    def compiled(function, static, donate=()):
        programs = []

        def call(*args):
            if not programs:
                lowered = jax.jit(function.__wrapped__, static_argnums=range(static), donate_argnums=donate).lower(*args)
                programs.append(lowered.compile())
                texts[function.__name__] = programs[0].as_text()
            return programs[0](*args[static:])

        return call

    begin = compiled(host.begin, 4)
    monkeypatch.setattr(host, "advance", compiled(host.advance, 1, 1))
    monkeypatch.setattr(host, "begin", begin)
    found = quiet(conjugate.model, jax.random.key(0), *problem, **options, **over(8)).log_evidence
    np.testing.assert_allclose(found, whole, rtol=1e-10)
    assert set(texts) == {"begin", "advance"}
    for text in texts.values():
        assert "num_partitions=8" in text and not COLLECTIVE.search(text)
    monkeypatch.setattr(host, "begin", lambda *args: begin(*args[:-1], args[-1] % 2))  # as if every device counted from zero
    wrong = quiet(conjugate.model, jax.random.key(0), *problem, **options, **over(8)).log_evidence
    np.testing.assert_allclose(wrong[:2], whole[:2], rtol=1e-10)
    assert (np.abs(wrong - whole)[2:] > 1e-3).all()


@pytest.mark.slow
def test_a_path_that_ends_at_a_peak_of_all_restarts(conjugate, quiet):
    """It is followed again up to there, with the draws; in float32, on data that lie split over another axis."""
    problem, options = conjugate.random(20, 3), RUN | {"num_restarts": 12}
    mesh = jax.make_mesh((2, 3), ("rows", "r"), devices=jax.devices()[2:])
    expected = quiet(conjugate.model, jax.random.key(0), *problem, **options)
    assert 0 < expected.best_step
    rows = jax.device_put((problem.x, problem.y), NamedSharding(mesh, PartitionSpec("rows")))
    found = quiet(conjugate.model, jax.random.key(0), *rows, problem.noise, **options, **over(3) | {"mesh": mesh})
    assert_same(found, expected, 1e-5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("start", ["fit", "prior"])
def test_preconditioned_paths_and_held_out_data(x64, conjugate, quiet, start):
    problem = conjugate.random(20, 3)
    options = {"num_restarts": 16, "start": start, "test": tuple(conjugate.random(6, 3, 1))}
    expected = quiet(conjugate.model, jax.random.key(0), *problem, **options)
    assert_same(quiet(conjugate.model, jax.random.key(0), *problem, **options, **over(8)), expected, 1e-10)


@pytest.mark.exhaustive
def test_the_path_of_a_large_model_is_chosen_alike(x64, conjugate, quiet):
    """Of 16 restarts that choose, three devices have no equal share: they choose together."""
    problem, options = conjugate.random(60, 140), {"num_restarts": 24}
    expected = quiet(conjugate.model, jax.random.key(0), *problem, **options)
    for number in (3, 8):
        found = quiet(conjugate.model, jax.random.key(0), *problem, **options, **over(number))
        assert_same(found, expected, 1e-10)
        assert [(t.start, t.num_steps, t.kept) for t in found.tried] == [(t.start, t.num_steps, t.kept) for t in expected.tried]


def tactic(values, axis="r", **more):
    return {"tactics": [ls.ManualPartition(values, axis=axis, **more)]}


REFUSED = {
    "no mesh": ({"mesh": None}, lc.EvidenceError, r"write mesh=jax\.make_mesh"),
    "sizes": ({"mesh": {"r": 8}}, lc.EvidenceError, r"mesh is a dict, .*jax\.make_mesh"),
    "no tactics": ({"tactics": None}, lc.EvidenceError, r"tactics are None; a list expected .*\"restarts\": 0"),
    "one tactic": ({"tactics": ls.ManualPartition({"restarts": 0}, axis="r")}, lc.EvidenceError, "a list expected"),
    "uneven": ({"num_restarts": 20}, lc.EvidenceError, r"num_restarts=20 cannot be split evenly over the 8 devices of 'r'; .*=24"),
    "uneven, padded": (tactic({"restarts": 0}, pad=True) | {"num_restarts": 3}, lc.EvidenceError, r"num_restarts=3 .*write num_restarts=8"),
    "axis": (tactic({"restarts": 0}, "row"), lc.PartitionError, r"the mesh has no axis 'row'; its axes are 'r'"),
    "twice": ({"tactics": 2 * over(8)["tactics"]}, lc.PartitionError, r"the axis 'r' is used by ManualPartition.* already"),
    "name": (tactic({"restart": 0}), lc.PartitionError, r"nothing that is called 'restart'\. Did you mean 'restarts'\?"),
    "chains": (tactic({"chains": 0}), lc.PartitionError, r"nothing that is called 'chains'\. .*'restarts'"),
    "dimension": (tactic({"restarts": 1}), lc.PartitionError, r"restarts have one dimension, 0; found 1"),
    "plate": (tactic({"plate:rows": 0}), lc.SamplerError, r"'plate:rows' means rows, and rows of sgd_evidence cannot be split"),
    "data": (tactic({"restarts": 0, "data.x": 0}), lc.SamplerError, r"'data\.x' means rows"),
    "automatic": ({"tactics": [ls.AutomaticPartition(["r"])]}, lc.PartitionError, r"nothing to search for"),
    "no tactic": ({"tactics": ["r"]}, lc.PartitionError, r"a tactic is a ManualPartition"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(quiet, name):
    options, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        quiet(lambda: pytest.fail("the model was run"), jax.random.key(0), **over(8) | options)


def test_what_stays_whole_is_not_split():
    """`REPLICATED`, a function that says nothing, and the order of axes."""
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    split = [
        ls.ManualPartition({"restarts": where}, axis=axis) for where, axis in [(ls.FIRST_DIVISIBLE, "b"), (lambda name, shape: -1, "a")]
    ]
    place = placement(mesh, split, 16)
    assert place.axes == ("b", "a") and place.num_devices == 8
    assert placement(mesh, [ls.ManualPartition({"restarts": ls.REPLICATED}, axis="a")], 3) is None
    assert placement(None, [], 3) is None
