"""Nothing that lives as long as the process grows without bound: every cache at the top of a module has a bound or weak keys."""

import ast
import functools
import gc
import importlib
import pkgutil
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import luciole as lc
from luciole import transforms as lt
from luciole.ppl import predictive
from luciole.transforms.autodiff import rules_calls

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("transforms", "ppl", "inference", "sharding", "src/luciole")

# Containers at the top of a module that are filled while it runs, and why they stay small.
CONTAINERS = {
    "FALLBACK": "one entry, made on import",
    "LINEARIZE": "one rule per primitive, made on import",
    "FORWARD": "as LINEARIZE",
    "TRANSPOSE": "as LINEARIZE",
    "fallback_counts": "one number per primitive",
    "_REGISTERED": "one bound per class that a user registers, and may take back",
    "_keys": "weak",
    "_known": "weak",
    "_sources": "weak",
    "_cache": "at most _MAX_PROGRAMS",
}
# Static arguments of `jax.jit` that are sizes and settings, and refer to nothing: they act as shapes do.
SIZES = {"transforms/keys.py", "transforms/autobatch/compaction.py", "inference/flymc/bounds/softmax.py"}
MUTABLE = {"dict", "list", "set", "Counter", "defaultdict", "OrderedDict", "deque", "WeakKeyDictionary", "WeakValueDictionary", "WeakSet"}


def files():
    return [f for room in ROOMS for f in sorted((ROOT / room).rglob("*.py")) if not any(p.is_symlink() for p in f.parents)]


def last_name(node):
    return getattr(node, "attr", getattr(node, "id", None))


def containers(text):
    """Names of containers that are made empty at the top of a module, to be filled later."""
    if not re.search(r"^\w+\b.*= .*(\{\}|\[\]|\(\))( *#.*)?$", text, re.MULTILINE):
        return
    for node in ast.parse(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        value = getattr(node, "value", None)
        empty = (isinstance(value, ast.Dict) and not value.keys) or (isinstance(value, ast.List) and not value.elts)
        called = isinstance(value, ast.Call) and not value.args and last_name(value.func) in MUTABLE
        yield from (t.id for t in targets if isinstance(t, ast.Name) and (empty or called))


def unbounded(text):
    """Lines of caches without a bound: functools.cache, lru_cache(maxsize=None), jax.jit with static arguments."""
    if not re.search(r"cache\b|static_arg", text):
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Attribute, ast.Name)) and last_name(node) == "cache" and not isinstance(node.ctx, ast.Store):
            yield node.lineno, "functools.cache"
        if not isinstance(node, ast.Call):
            continue
        names = {last_name(node.func), *(last_name(a) for a in node.args)}
        keywords = {k.arg: k.value for k in node.keywords}
        bound = keywords.get("maxsize", node.args[0] if node.args else ast.Constant(1))
        if last_name(node.func) == "lru_cache" and isinstance(bound, ast.Constant) and bound.value is None:
            yield node.lineno, "lru_cache without a bound"
        if names & {"jit", "_program"} and {"static_argnums", "static_argnames"} & set(keywords):
            yield node.lineno, "jax.jit with static arguments"


def test_every_container_is_known():
    found = {name for f in files() for name in containers(f.read_text())} - {"__all__"}
    assert found == CONTAINERS.keys()


def test_every_cache_has_a_bound():
    bad = [(str(f.relative_to(ROOT)), *hit) for f in files() for hit in unbounded(f.read_text())]
    inside = ("transforms/autobatch/api.py", "jax.jit with static arguments")  # of an object, and goes with it
    assert [b for b in bad if (b[0], b[2]) != inside and b[0] not in SIZES] == []


def test_the_search_finds_what_it_looks_for():
    text = "import functools\n\n@functools.cache\ndef f(x): ...\n\n@functools.lru_cache(maxsize=None)\ndef g(x): ...\n\n"
    text += "@functools.partial(jax.jit, static_argnums=0)\ndef h(x): ...\n\nKEPT: dict[int, str] = {}\n"
    assert [line for line, _ in unbounded(text)] == [3, 6, 9]
    assert list(containers(text)) == ["KEPT"]


@functools.lru_cache(maxsize=1)
def modules():
    names = [m.name for m in pkgutil.walk_packages(lc.__path__, "luciole.")]
    return [importlib.import_module(name) for name in names if not name.endswith("__main__")]


def cache_sizes():
    """Every bounded cache at the top of a module: its entries and its bound, by name."""
    found = {}
    for module in modules():
        for value in vars(module).values():
            if hasattr(value, "cache_parameters") and not isinstance(value, type):
                info = value.cache_info() if hasattr(value, "cache_info") else None
                size = info.currsize if info else value._cache_size()
                found[f"{value.__module__}.{value.__name__}"] = size, value.cache_parameters()["maxsize"]
    return found


def test_every_cache_that_exists_has_a_bound():
    found = cache_sizes()
    assert len(found) > 10
    assert [name for name, (_, bound) in found.items() if not bound] == []


def grown(rounds, again=50):
    """By how much every cache, and the number of live arrays, grows over 50 rounds after the first three."""
    for i in range(3):
        rounds(i)
    gc.collect()
    before, arrays = cache_sizes(), len(jax.live_arrays())
    for i in range(3, 3 + again):
        rounds(i)
    gc.collect()
    more = {name: size - before[name][0] for name, (size, _) in cache_sizes().items()}
    return {name: n for name, n in more.items() if n}, len(jax.live_arrays()) - arrays


@pytest.mark.slow
def test_gradients_of_fresh_functions():
    """Equal ones share what was compiled, whatever they close over; others are dropped in the end."""

    def equal(i):
        data = jnp.full(3, float(i))
        got = lt.grad(jax.jit(lambda x: jnp.sum(jnp.sin(x * data))))(jnp.ones(3))
        np.testing.assert_allclose(got, i * np.cos(i), rtol=1e-5)

    assert grown(equal) == ({}, 0)


@pytest.mark.exhaustive
def test_gradients_of_other_functions():
    def other(i):
        f = jax.jit(lambda x: jnp.sum(jnp.sin(x)) * (0.5 + i))
        lt.grad(f)(jnp.ones(3))

    cache = rules_calls._compiled_linearize
    grown(other, 65)
    assert cache._cache_size() == cache.cache_parameters()["maxsize"] == 64
    more, arrays = grown(other, 5)
    assert (more, arrays) == ({}, 0)
    gc.collect()
    assert len(rules_calls._keys) < 3 * 64


def fresh_model(i):
    y = np.arange(4.0) + i

    def model():
        m = lc.sample("m", dist.Normal(0.0, 1.0))
        lc.sample("y", dist.Normal(m, 1.0), obs=jnp.asarray(y))

    return model


@pytest.mark.slow
def test_fresh_densities():
    def one(i):
        density = lc.log_density(fresh_model(i))
        jax.eval_shape(density, {"m": jnp.zeros(())})

    assert grown(one, 10) == ({}, 0)


@pytest.mark.slow
def test_fresh_predictives():
    def one(i):
        lc.prior_predictive(fresh_model(i), jax.random.key(i), 2)
        lc.log_likelihood(fresh_model(i), {"m": np.zeros(2)})
        lc.posterior_predictive(fresh_model(i), jax.random.key(i), {"m": np.zeros(2)})

    before = predictive._batch._cache_size()
    assert grown(one) == ({}, 0)
    assert predictive._batch._cache_size() <= before + 3


@pytest.mark.exhaustive
def test_fresh_chains():
    def one(i):
        mcmc = lc.MCMC(lc.NUTS(fresh_model(i), max_tree_depth=2), num_warmup=4, num_samples=2, num_chains=1, progress_bar=False)
        mcmc.run(jax.random.key(i))

    assert grown(one) == ({}, 0)


@lt.program
def doubled(x):
    while x < 10.0:
        x = 2.0 * x
    return x


@pytest.mark.slow
def test_fresh_batches():
    def one(i):
        lt.autobatch(doubled)(jnp.ones(2))

    assert grown(one) == ({}, 0)
