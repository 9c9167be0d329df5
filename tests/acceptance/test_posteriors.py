"""Short NUTS runs on real posteriors, judged against the reference draws of posteriordb; each with a broken twin that must fail.

Data, reference summaries and their licence stand in `tests/data`.
"""

import json
from pathlib import Path

import adapter
import numpy as np
import pytest
from judge import WithoutJacobian, against_reference
from models_dsl import POSTERIORS

import luciole as lc

DATA = Path(__file__).resolve().parents[1] / "data"
pytestmark = pytest.mark.usefixtures("x64")


def judged(model, data, reference):
    mcmc = adapter.sample(model, data, seed=1, warmup=600, draws=800)
    return against_reference(mcmc.get_samples(group_by_chain=True), reference)


@pytest.fixture(params=["eight_schools", pytest.param("ark", marks=pytest.mark.slow), pytest.param("kidiq", marks=pytest.mark.exhaustive)])
def posterior(request):
    """Name, model, the model's arguments and reference summaries."""
    file = json.loads((DATA / f"{request.param}.json").read_text())
    entry = POSTERIORS[file["name"]]
    return request.param, entry.model, entry.prepare(file["data"]), file["reference"]


def test_draws_agree_with_the_reference(posterior):
    _, model, data, reference = posterior
    verdict = judged(model, data, reference)
    assert verdict.passed, verdict


@pytest.mark.slow
def test_a_broken_twin_disagrees(posterior):
    name, model, data, reference = posterior
    if name == "eight_schools":  # no Jacobian
        model, data = WithoutJacobian.of(lc.log_density(model, **data)), {}
    elif name == "kidiq":  # the indicator is coded 1, 2 and not 0, 1
        data = data | {"X": data["X"] + np.array([0.0, 1.0, 0.0])}
    else:  # the lags are off by one
        data = data | {"lags": np.roll(data["lags"], 1, axis=0)}
    verdict = judged(model, data, reference)
    assert not verdict.passed, verdict
