"""The simulator's operations and peak memory against the compiler's own analysis of the same local program."""

import importlib.util

import jax
import jax.numpy as jnp
import pytest

from luciole import sharding as ls

MESH = {"b": 4, "m": 2}
BATCH = ls.ManualPartition({"x": 0}, axis="b")


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def against_the_compiler(part):
    """(operations, peak memory), each as a multiple of what the compiler says."""
    compiled, report = part.lower().compile(), part.reports[-1]
    memory = compiled.memory_analysis()
    total = memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    return report.flops / compiled.cost_analysis()["flops"], report.peak_bytes / total


def network(weights, x):
    for w in weights:
        x = jax.nn.gelu(x @ w)
    return jnp.mean(x * x)


def descend(weights, x):
    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, jax.grad(network)(weights, x))


def scanned(weights, x):
    x, _ = jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), x, weights)
    return jnp.mean(x * x)


def until_large(x):
    return jax.lax.while_loop(lambda c: (jnp.sum(c[0]) < 1e3) & (c[1] < 10), lambda c: (c[0] @ c[0].T @ c[0] + 1, c[1] + 1), (x, 0))[0]


def chosen(x, p):
    return jax.lax.cond(p[0] > 0, lambda x: jnp.exp(x @ x), lambda x: x + 1, x)


def mixture(x, w):
    return jnp.mean(jax.nn.logsumexp(x @ w, -1))


PROGRAMS = {
    "descent": (descend, ([array(256, 256)] * 3, array(4096, 256)), [BATCH], 1),
    "scan": (jax.grad(scanned), (array(8, 128, 128), array(512, 128)), [BATCH], 8),
    "scan, two axes": (jax.grad(scanned), (array(8, 128, 128), array(512, 128)), [BATCH, ls.ManualPartition({"weights": 2}, axis="m")], 8),
    "while": (until_large, (array(256, 256),), [BATCH], 1),
    "cond": (chosen, (array(256, 256), array(1)), [BATCH], 1),
    "mixture": (mixture, (array(1024, 64), array(64, 512)), [BATCH], 1),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_operations_and_peak_memory(name):
    """The compiler counts a scan's body once, we each turn of it."""
    function, args, tactics, turns = PROGRAMS[name]
    flops, peak = against_the_compiler(ls.partition(function, args, MESH, tactics))
    assert flops == pytest.approx(turns, rel=0.05)
    assert peak == pytest.approx(1, abs=0.35)


@pytest.mark.slow
@pytest.mark.parametrize("names", [(), ("BP", "MP"), ("BP", "MP", "Z3")], ids="+".join)
def test_a_transformer_s_operations_and_peak_memory(acceptance, names):
    spec = importlib.util.spec_from_file_location("transformer", acceptance / "transformer.py")
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    params = model.shapes("layer_norm", 1, d=128, h=4, dh=32, ff=512, vocab=1024)
    data = {name: jax.ShapeDtypeStruct((16, 64), jnp.int32) for name in ("tok", "tgt")}
    tactics = [model.tactics(ls)[name] for name in names]
    args = params, {"m": params, "v": params}, data
    part = ls.partition(model.step, args, {"batch": 4, "model": 2}, tactics, carry={"p": "p", "opt": "opt"})
    flops, peak = against_the_compiler(part)
    assert flops == pytest.approx(1, rel=0.05)
    assert peak == pytest.approx(1, abs=0.35)
