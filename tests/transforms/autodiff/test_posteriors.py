"""Every open posterior: value and gradient equal JAX's, and no primitive falls back."""

import importlib.util
import json
import sys

import jax
import numpy as np
import pytest

from luciole import ppl
from luciole.transforms import autodiff as ad


@pytest.mark.slow
@pytest.mark.acceptance
def test_gradient_of_every_posterior(acceptance):
    spec = importlib.util.spec_from_file_location("models_numpyro_for_gradients", acceptance / "models_numpyro.py")
    models = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = models  # dataclasses look their module up
    spec.loader.exec_module(models)
    checked = 0
    for name, entry in models.REGISTRY.items():
        data = json.loads((acceptance / "posteriors" / name / "data.json").read_text())
        density = ppl.log_density(entry.model, **entry.prep(data))
        start = density.init(jax.random.key(0))
        with ad.without_fallback():
            ours = jax.jit(lambda p, d=density: ad.value_and_grad(d)(p))(start)
        theirs = jax.jit(lambda p, d=density: jax.value_and_grad(d)(p))(start)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-10 * (1 + np.max(np.abs(b))), err_msg=name)
        checked += 1
    assert checked == 16
