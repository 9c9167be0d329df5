"""Bad models and bad data: each is an error while tracing that names the site, the fault and the user's line."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
from numpyro import distributions as dist
from numpyro import handlers
from numpyro.contrib.control_flow import scan as contrib_scan

from luciole import ppl as lc
from luciole.transforms import ModelError

NORMAL = dist.Normal(0.0, 1.0)


def latent():
    return lc.sample("x", NORMAL)


def twice():
    latent()
    lc.sample("x", NORMAL)  # HERE


def twice_in_a_branch():
    def yes():
        lc.sample("z", NORMAL, obs=0.0)
        lc.sample("z", NORMAL, obs=0.0)  # HERE
        return 0.0

    jax.lax.cond(latent() > 0, yes, lambda: 0.0)


def twice_by_a_helper():
    helper = jax.jit(lambda m: lc.sample("z", dist.Normal(m, 1.0)))  # HERE
    helper(0.0)
    helper(1.0)


def shape_of_obs():
    lc.sample("y", dist.Normal(jnp.zeros(8), latent()), obs=np.zeros(5))  # HERE


def column_against_row():
    lc.sample("y", dist.Normal(jnp.zeros(8), latent()), obs=np.zeros((8, 1)))  # HERE


def row_against_column():
    lc.sample("y", dist.Normal(jnp.zeros((8, 1)), latent()), obs=np.zeros(8))  # HERE


def event_of_obs():
    lc.sample("y", dist.Dirichlet(jnp.ones(3)), obs=np.array([0.5, 0.5]))  # HERE


def narrow_in_a_plate():
    with lc.plate("n", 8):
        lc.sample("y", dist.Normal(latent(), 1.0), obs=0.5)  # HERE


def outside_support():
    lc.sample("y", dist.Poisson(jnp.exp(latent())), obs=np.array([3, 4, -1, 2]))  # HERE


def outside_support_in_a_matrix():
    lc.sample("y", dist.Beta(2.0, 3.0).expand([2, 2]).to_event(1), obs=np.array([[0.1, 0.2], [0.3, 1.7]]))  # HERE


def nan_in_data():
    with lc.plate("n", 3):
        lc.sample("y", dist.Normal(latent(), 1.0), obs=np.array([0.0, np.nan, 1.0]))  # HERE


def plate_against_data():
    scale = jnp.exp(latent())
    with lc.plate("n", 3):
        lc.sample("y", dist.Normal(jnp.zeros(5), scale), obs=np.zeros(5))  # HERE


def numpyro_plate_against_data():
    with numpyro.plate("n", 3):
        numpyro.sample("y", dist.Normal(jnp.zeros(5), 1.0), obs=np.zeros(5))  # HERE


def text_observed():
    lc.sample("y", dist.Normal(latent(), 1.0), obs=np.array(["a", "b"]))  # HERE


def objects_observed():
    lc.sample("y", dist.Normal(latent(), 1.0), obs=np.array([None, 1.0]))  # HERE


def ragged_observed():
    lc.sample("y", dist.Normal(latent(), 1.0), obs=[[1.0], [1.0, 2.0]])  # HERE


def text_deterministic():
    latent()
    lc.deterministic("label", "high")  # HERE


def dict_as_factor():
    latent()
    lc.factor("f", {"a": 1.0})  # HERE


def no_distribution():
    lc.sample("x", 3.0)  # HERE


def no_distribution_numpyro():
    numpyro.sample("x", 3.0)  # HERE


def no_name():
    lc.sample(3, NORMAL)  # HERE


def plate_of_nothing():
    with lc.plate("n", 0):  # HERE
        latent()


def plate_of_text():
    with lc.plate("n", "many"):  # HERE
        latent()


def plate_of_latent_size():
    with lc.plate("n", latent()):  # HERE
        pass


def plate_counted_from_the_left():
    with lc.plate("n", 3, dim=0):  # HERE
        latent()


def plates_on_one_dim():
    with lc.plate("a", 3, dim=-1), lc.plate("b", 4, dim=-1):  # HERE
        latent()


def coords_of_another_length():
    with lc.plate("n", 3, coords=["a", "b"]):  # HERE
        latent()


def site_in_while():
    jax.lax.while_loop(lambda x: x < 0, lambda x: lc.sample("w", dist.Normal(x, 1.0)), latent())  # HERE


def branches_differ():
    jax.lax.cond(latent() > 0, lambda: lc.sample("z", NORMAL), lambda: 0.0)  # HERE


def branches_differ_in_shape():
    def yes():
        return lc.sample("z", NORMAL)  # HERE

    jax.lax.cond(latent() > 0, yes, lambda: lc.sample("z", dist.Normal(jnp.zeros(3), 1.0)).sum())


def observations_differ_in_shape():
    def yes():
        lc.deterministic("z", jnp.zeros(2))  # HERE

    jax.lax.cond(latent() > 0, yes, lambda: (lc.deterministic("z", jnp.zeros(3)), None)[1])


def site_in_grad():
    jax.grad(lambda m: lc.sample("z", dist.Normal(m, 1.0)))(latent())  # HERE


def parameter():
    numpyro.param("w", 1.0)  # HERE


def mutable():
    numpyro.primitives.mutable("state", {"a": 1.0})  # HERE


def random_key():
    numpyro.prng_key()  # HERE


def subsample():
    with lc.plate("n", 10), numpyro.plate("m", 10, subsample_size=3):  # HERE
        latent()


def decides_on_latent():
    if latent() > 0:  # HERE
        lc.sample("y", NORMAL, obs=0.0)


def counts_with_latent():
    np.arange(int(latent()))  # HERE


def undeclared_attribute():
    class Lossy(dist.Distribution):
        support = dist.constraints.real

        def __init__(self, power):
            self.power = power
            super().__init__()

        def log_prob(self, value):
            return -(value**self.power)

    lc.sample("x", Lossy(4))  # HERE


def closure_over_latent():
    m = latent()
    sde = dist.EulerMaruyama(jnp.arange(3.0), lambda x, t: (m * x, jnp.ones_like(x)), dist.Normal(0.0, 1.0))
    lc.sample("path", sde)  # HERE


def array_mask_around_scan():
    with handlers.mask(mask=np.array([True, False])):
        contrib_scan(lambda c, x: (lc.sample("z", NORMAL), None), 0.0, jnp.zeros(2))  # HERE


def blocked_without_seed():
    with handlers.block():
        latent_here = lc.sample("hidden", NORMAL)  # HERE
    return latent_here


# model -> what the message must say
CASES = {
    twice: ["'x'", "used twice", "its own name", "scope"],
    twice_in_a_branch: ["'z'", "used twice", "scope"],
    twice_by_a_helper: ["'z'", "used twice", "scope"],
    shape_of_obs: ["'y'", "(5,)", "Normal has shape (8,)", "to fit the data"],
    column_against_row: ["'y'", "(8, 1)", "shape (8,)"],
    row_against_column: ["'y'", "(8,)", "shape (8, 1)"],
    event_of_obs: ["'y'", "(2,)", "Dirichlet has shape (3,)", "event (3,)"],
    narrow_in_a_plate: ["'y'", "shape ()", "(8,)", "plate 'n' of size 8 at dimension -1"],
    outside_support: ["'y'", "-1 at index 2", "1 of 4", "Poisson", "Check the data's coding"],
    outside_support_in_a_matrix: ["'y'", "1.7", "at index (1, 1)", "Beta"],
    nan_in_data: ["'y'", "NaN at index 1", "1 of 3", "mask"],
    plate_against_data: ["'y'", "(5,)", "plate 'n' has size 3", "dim="],
    numpyro_plate_against_data: ["'y'"],
    text_observed: ["'y'", "numpy.ndarray", "expected a number or a numeric array", "integer codes"],
    objects_observed: ["'y'", "NaN at index 0", "1 of 2"],
    ragged_observed: ["'y'", "list", "expected a number or a numeric array"],
    text_deterministic: ["'label'", "str", "expected a number or a numeric array"],
    dict_as_factor: ["'f'", "dict", "expected a number or a numeric array"],
    no_distribution: ["'x'", "float", "expected a distribution", "dist.Normal(0, 1)"],
    no_distribution_numpyro: ["'x'"],
    no_name: ["found 3", "expected a string"],
    plate_of_nothing: ["plate 'n'", "size is 0", "expected a positive integer", "empty"],
    plate_of_text: ["plate 'n'", "'many'", "expected an integer", "len(y)"],
    plate_of_latent_size: ["plate 'n'", "expected an integer"],
    plate_counted_from_the_left: ["plate 'n'", "dim is 0", "expected a negative integer"],
    plates_on_one_dim: ["plate 'b'", "dim -1", "plate 'a'", "leave `dim` out"],
    coords_of_another_length: ["plate 'n'", "2 coords", "size 3", "one label for each"],
    site_in_while: ["'w'", "while_loop", "jax.lax.scan"],
    branches_differ: ["'z'", "absent", "Every branch"],
    branches_differ_in_shape: ["'z'", "latent of shape ()", "latent of shape (3,)", "two names"],
    observations_differ_in_shape: ["'z'", "deterministic of shape (2,)", "deterministic of shape (3,)", "two names"],
    site_in_grad: ["'z'", "differentiates", "Sample outside"],
    parameter: ["'w'", "numpyro.param", "prior"],
    mutable: ["'state'", "numpyro.mutable", "argument"],
    random_key: ["prng_key", "draws only with `sample`"],
    subsample: ["'m'", "3 of 10", "remove `subsample_size`"],
    decides_on_latent: ["bool", "jnp.where", "jax.lax.cond"],
    counts_with_latent: ["jax.lax.scan", "NumPy"],
    undeclared_attribute: ["'x'", "Lossy", "'power'", "pytree_aux_fields"],
    closure_over_latent: ["'path'", "sde_fn", "EulerMaruyama", "scan"],
    array_mask_around_scan: ["handlers.mask", "(2,)", "inside the body"],
    blocked_without_seed: ["prng_key", "handlers.seed"],
}


def message_of(model, function=lc.trace, *args):
    with pytest.raises(ModelError) as caught:
        function(model, *args)
    return str(caught.value)


@pytest.mark.parametrize("model", CASES, ids=lambda m: m.__name__)
def test_message(model):
    message = message_of(model)
    for words in CASES[model]:
        assert words in message, message
    lines, start = inspect.getsourcelines(model)
    here = start + next(i for i, line in enumerate(lines) if "# HERE" in line)
    assert re.search(rf"{re.escape(__file__)}:{here}\b", message), f"line {here} is not named in: {message}"


def test_nan_under_a_mask_is_allowed(x64):
    y, seen = np.array([0.0, np.nan, 1.0]), np.array([True, False, True])

    def inside():
        x = latent()
        with handlers.mask(mask=seen):
            lc.sample("y", dist.Normal(x, 1.0), obs=y)

    def expanded():
        with lc.plate("rows", 2, dim=-2), lc.plate("n", 3, dim=-1):
            lc.sample("y", dist.Normal(0.0, 1.0).mask(seen), obs=np.stack([y, y]))

    def event():
        lc.sample("y", dist.Normal(latent(), 1.0).expand([3]).mask(seen).to_event(1), obs=y)

    for model in (inside, event):
        assert np.isfinite(float(lc.log_density(model)({"x": 0.3})))
    assert lc.trace(expanded).sites["y"].shape == (2, 3)
    broken = "NaN at index (1, 1)"
    seen_too_much = np.array([[True, False, True], [True, True, True]])
    with pytest.raises(ModelError, match=re.escape(broken)):
        lc.trace(lambda: lc.sample("y", dist.Normal(0.0, 1.0).mask(seen_too_much), obs=np.stack([y, y])))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: dist.Poisson(2.0), ["'x'", "discrete", "observe it", "MixtureSameFamily"]),
        (lambda: dist.ProjectedNormal(jnp.ones(3)), ["'x'", "no bijection", "Use a distribution on the reals"]),
    ],
    ids=["discrete", "sphere"],
)
def test_latents_that_gradients_cannot_move(make, words):
    """Refused in a density, and still fine for simulation."""

    def model():
        x = lc.sample("x", make())  # HERE
        lc.sample("y", dist.Normal(x, 1.0))

    message = message_of(model, lc.log_density)
    assert all(w in message for w in words), message
    assert f"{__file__}:" in message
    drawn = lc.prior_predictive(model, jax.random.key(0), 5)
    assert drawn["x"].shape[0] == 5


def test_models_without_sites():
    assert "no `sample` statement" in message_of(lambda: None)
    assert "no latent site" in message_of(lambda: lc.sample("y", NORMAL, obs=0.0), lc.log_density)
    assert "expected a function" in message_of(3)


def test_statements_outside_a_model():
    marked = lc.model(latent)
    for call, words in [
        (latent, "'x'"),
        (marked, "model 'latent'"),
        (lambda: lc.factor("f", 0.0), "'f'"),
        (lambda: lc.deterministic("d", 0.0), "'d'"),
    ]:
        with pytest.raises(ModelError, match="outside a model") as caught:
            call()
        assert words in str(caught.value)


def test_errors_of_the_user_pass_through():
    def model():
        latent()
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        lc.trace(model)
