"""Models side by side: what is ranked, what is refused and shown, and when there are probabilities. Estimates are made up, from numbers."""

from dataclasses import replace

import jax
import numpy as np
import pytest

import luciole as lc

RESTARTS = 8


@pytest.fixture(scope="module")
def estimate(conjugate):
    """One estimate, from a fit, certified."""
    problem = conjugate.random(20, 2)
    return lc.sgd_evidence(conjugate.model, jax.random.key(0), *problem, num_restarts=RESTARTS, num_steps=4, progress_bar=False)


def made(estimate, evidence, spread=0.0, **changes):
    """An estimate with this log evidence at its last step; restarts differ by `spread`, so that importance weights are larger."""
    away = evidence + spread * np.linspace(-1, 1, RESTARTS) - estimate.log_evidence[:, -1]
    return replace(estimate, log_likelihood=estimate.log_likelihood + away[:, None], **changes)


def bridge(log_evidence, stderr=0.01):
    return lc.BridgeEvidence(log_evidence, stderr, 4, 4000, 2000, 1500.0, 4000, 7, 1.0, 0, 1e-5)


def too_long(estimate, paths):
    curvature = np.array(estimate.curvature)
    curvature[:paths, 1] = 1.5
    return curvature


def test_probabilities_are_those_of_the_best_estimates(estimate):
    table = lc.compare_evidence({"a": made(estimate, -12.0, 0.1), "b": made(estimate, -10.0, 0.2), "c": made(estimate, -30.0)})
    assert [row.name for row in table.rows] == ["b", "a", "c"]
    best = np.array([row.importance_weighted for row in table.rows])
    assert np.all(best >= [row.log_evidence - 1e-6 for row in table.rows])
    np.testing.assert_allclose([row.probability for row in table.rows], np.exp(best - best[0]) / np.exp(best - best[0]).sum())
    assert "probability" in repr(table) and "No probabilities" not in repr(table)


def test_no_probabilities_where_bounds_may_be_low_by_more_than_they_differ(estimate):
    table = lc.compare_evidence({"a": made(estimate, -10.1, 2.0), "b": made(estimate, -10.0, 2.0)})
    assert table["a"].looseness > 0.1 and all(np.isnan(row.probability) for row in table.rows)
    assert "No probabilities of models" in repr(table)


def test_no_probabilities_where_looseness_is_not_known(estimate):
    far = {name: replace(made(estimate, value), order="reference") for name, value in (("a", -50.0), ("b", -10.0))}
    table = lc.compare_evidence(far)
    assert np.isnan(table["a"].importance_weighted) and np.isnan(table["a"].probability)
    with_bridge = lc.compare_evidence(far, bridge={"a": bridge(-49.9), "b": bridge(-9.8)})
    np.testing.assert_allclose([row.looseness for row in with_bridge.rows], [0.2, 0.1], rtol=1e-4)
    np.testing.assert_allclose(with_bridge["a"].probability, np.exp(-40.1) / (1 + np.exp(-40.1)), rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        (lambda e: {"curvature": too_long(e, 1)}, "the guard passed on 7 of 8 paths only"),
        (lambda e: {"start": "prior", "best_step": int(e.steps[-1])}, "still rising at the last step"),
        (lambda e: {"step_size": np.ones(9)}, "interrupted before the last step"),
    ],
    ids=["guard", "rising", "interrupted"],
)
def test_what_cannot_be_trusted_is_shown_and_not_ranked(estimate, changes, why):
    larger = made(estimate, -1.0, **changes(estimate))
    table = lc.compare_evidence({"larger": larger, "sound": made(estimate, -10.0)})
    assert table.best == "sound" and list(table.refused) == ["larger"]
    assert why in table.refused["larger"] and f"not ranked: {table.refused['larger']}" in repr(table)
    assert np.isnan(table["larger"].difference) and np.isnan(table["larger"].probability)
    with pytest.raises(lc.EvidenceError, match=f"no estimate can be ranked.*'larger': .*{why}"):
        lc.compare_evidence({"larger": larger})


def test_estimates_that_contradict_each_other_say_so(estimate):
    one = {"a": made(estimate, -10.0, 0.1)}
    assert not lc.compare_evidence(one, bridge={"a": bridge(-9.99)})["a"].remark
    assert "2.00 above the bridge estimate: one of them is wrong" in repr(lc.compare_evidence(one, bridge={"a": bridge(-12.0)}))
    assert "importance weighting and bridge differ by 1.00" in repr(lc.compare_evidence(one, bridge={"a": bridge(-9.0)}))


def test_a_path_that_is_not_counted_is_paid_for(estimate):
    whole, part = made(estimate, -10.0), made(estimate, -10.0, curvature=too_long(estimate, 4))
    np.testing.assert_allclose(part.bound, whole.bound + np.log(0.5), rtol=1e-6)
    assert whole.certified and not part.certified and np.isnan(part.importance_weighted) and part.num_folds == 4


def test_what_is_no_estimate_is_refused(estimate):
    one = made(estimate, -10.0)
    with pytest.raises(lc.EvidenceError, match=r"'a' is a BridgeEvidence.*write bridge="):
        lc.compare_evidence({"a": bridge(-1.0)})
    with pytest.raises(lc.EvidenceError, match=r"bridge is no dict of what lc.bridge_evidence returns"):
        lc.compare_evidence({"a": one}, bridge={"a": -1.0})
    with pytest.raises(lc.EvidenceError, match="bridge has 'b', which is none of the estimates, 'a'"):
        lc.compare_evidence({"a": one}, bridge={"b": bridge(-1.0)})
