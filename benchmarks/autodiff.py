"""Our reverse mode beside `jax.grad`, in one run.

    PYTHONPATH=src python benchmarks/autodiff.py [repeats]

Each repeat times both compiled gradients, in alternating order; the ratio is the median over repeats of ours / jax's
in the same repeat. Warm-up: compilation
and three calls, not timed. Trace + lower is timed five times from a fresh function. `temp` is what XLA says the
compiled gradient
needs beside arguments and results. `flops` is XLA's own count for the gradient (it counts a scan's body once and sees
nothing inside
LAPACK); `linear` is counted on jaxprs by `flops_of`: the linear program against the primal.
"""

import itertools
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy as jsp
import numpy as np
from jax import lax

from luciole.transforms import autodiff as ad

RNG = np.random.default_rng(0)


def logistic_regression() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    x = jnp.asarray(RNG.normal(size=(20_000, 50)), jnp.float32)
    y = jnp.asarray(RNG.integers(0, 2, size=20_000), jnp.float32)

    def f(w, x, y):
        z = x @ w
        return jnp.sum(y * z - jnp.logaddexp(z, 0.0)) - 0.5 * w @ w

    return f, (jnp.zeros(50), x, y)


def hierarchical_scan() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    y = jnp.asarray(RNG.normal(size=(1000, 20)), jnp.float32)

    def f(params, y):
        def turn(state, row):
            level, total = state
            level = jnp.tanh(params["phi"] * level + params["drift"])
            return (
                level,
                total - 0.5 * jnp.sum((row - level) ** 2) * jnp.exp(-params["log_scale"]) - params["log_scale"],
            ), None

        (_, total), _ = lax.scan(turn, (params["start"], 0.0), y)
        return total

    params = {"phi": jnp.full(20, 0.9), "drift": jnp.full(20, 0.1), "start": jnp.zeros(20), "log_scale": jnp.zeros(())}
    return f, (params, y)


def perceptron() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    sizes = (64, 256, 256, 10)
    params = [(jnp.asarray(RNG.normal(size=s) / s[0] ** 0.5, jnp.float32), jnp.zeros(s[1])) for s in itertools.pairwise(sizes)]
    x, label = jnp.asarray(RNG.normal(size=(1024, 64)), jnp.float32), jnp.asarray(RNG.integers(0, 10, size=1024))

    def f(params, x, label):
        for w, b in params[:-1]:
            x = jnp.tanh(x @ w + b)
        w, b = params[-1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x @ w + b), label[:, None], 1))

    return f, (params, x, label)


def gaussian_process() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    t = jnp.linspace(0.0, 1.0, 400)
    y = jnp.sin(6 * t)

    def f(p, t, y):
        k = jnp.exp(p[0] - 0.5 * (t[:, None] - t) ** 2 * jnp.exp(p[1])) + jnp.exp(p[2]) * jnp.eye(400)
        factor = jnp.linalg.cholesky(k)
        return -0.5 * jnp.sum(jsp.linalg.solve_triangular(factor, y, lower=True) ** 2) - jnp.sum(jnp.log(jnp.diag(factor)))

    return f, (jnp.array([0.0, 2.0, -2.0]), t, y)


def gaussian_process_ruled() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The same density through `likelihoods.gaussian_log_density`, whose linear program is an inner product."""
    t = jnp.linspace(0.0, 1.0, 400)
    y = jnp.sin(6 * t)

    def f(p, t, y):
        k = jnp.exp(p[0] - 0.5 * (t[:, None] - t) ** 2 * jnp.exp(p[1])) + jnp.exp(p[2]) * jnp.eye(400)
        return ad.gaussian_log_density(y, jnp.zeros(400), k)

    return f, (jnp.array([0.0, 2.0, -2.0]), t, y)


PROBLEMS = {
    "logistic regression": logistic_regression,
    "hierarchical, scan": hierarchical_scan,
    "MLP": perceptron,
    "GP": gaussian_process,
    "GP, our rule": gaussian_process_ruled,
}


def flops_of(jaxpr: Any) -> float:
    """Floating point operations of a jaxpr.

    2 m n k for products, n^3/3 for Cholesky, n^2 m for triangular solves, one per entry otherwise.
    """
    inner = getattr(jaxpr, "jaxpr", jaxpr)
    free = {
        "broadcast_in_dim",
        "reshape",
        "transpose",
        "squeeze",
        "convert_element_type",
        "slice",
        "copy",
        "iota",
        "select_n",
        "gather",
        "rev",
        "pad",
        "concatenate",
        "stop_gradient",
        "dynamic_slice",
        "eq",
        "ge",
        "gt",
        "lt",
        "le",
        "ne",
        "and",
        "stack",
        "expand_dims",
    }
    total = 0.0
    for eqn in inner.eqns:
        name, size = eqn.primitive.name, sum(float(np.prod(v.aval.shape)) for v in eqn.outvars)
        subs = [v for v in eqn.params.values() if hasattr(v, "eqns") or hasattr(v, "jaxpr")]
        if name == "dot_general":
            (contract, _), _ = eqn.params["dimension_numbers"]
            total += 2 * size * float(np.prod([eqn.invars[0].aval.shape[i] for i in contract]))
        elif name == "cholesky":
            total += size * eqn.outvars[0].aval.shape[-1] / 3
        elif name == "triangular_solve":
            total += size * eqn.invars[0].aval.shape[-1]
        elif name == "reduce_sum":
            total += float(np.prod(eqn.invars[0].aval.shape))
        elif name == "scan":
            total += eqn.params["length"] * flops_of(eqn.params["jaxpr"])
        elif name == "ruled_call":
            total += flops_of(eqn.params["body"])
        elif subs:
            total += sum(flops_of(s) for s in subs[:1])
        elif name not in free:
            total += size
    return total


def cost(compiled: Any) -> tuple[float, int]:
    """(XLA's flops, temporary bytes)."""
    analysis = compiled.cost_analysis()
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return float(analysis.get("flops", 0.0)), compiled.memory_analysis().temp_size_in_bytes


def trace_seconds(transform: Callable[..., Any], f: Callable[..., Any], args: Any) -> float:
    """Median seconds to trace and lower, from a function that JAX has not seen."""
    times = []
    for _ in range(5):
        jax.clear_caches()
        fresh = transform(lambda *a: f(*a))
        start = time.perf_counter()
        jax.jit(fresh).lower(*args)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def compare(name: str, repeats: int) -> dict[str, float]:
    """One row of the table: every ratio is ours / jax's."""
    f, args = PROBLEMS[name]()
    theirs_f = PROBLEMS["GP"]()[0] if name == "GP, our rule" else f
    with ad.without_fallback():
        ours = jax.jit(ad.grad(f)).lower(*args).compile()
    theirs = jax.jit(jax.grad(theirs_f)).lower(*args).compile()
    for a, b in zip(jax.tree.leaves(ours(*args)), jax.tree.leaves(theirs(*args)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-2 * float(np.max(np.abs(b))))
    inner = max(1, int(0.02 / _seconds(theirs, args, 3)))
    ratios = []
    for i in range(repeats):
        order = ((ours, 0), (theirs, 1)) if i % 2 else ((theirs, 1), (ours, 0))
        took = [0.0, 0.0]
        for g, place in order:
            took[place] = _seconds(g, args, inner)
        ratios.append(took[0] / took[1])
    (our_flops, our_temp), (their_flops, their_temp) = cost(ours), cost(theirs)
    primal = flops_of(jax.make_jaxpr(f)(*args))
    _, linear = ad.linearize(lambda x: f(x, *args[1:]), args[0])
    return {
        "run": statistics.median(ratios),
        "temp": our_temp / max(their_temp, 1),
        "trace": trace_seconds(ad.grad, f, args) / trace_seconds(jax.grad, theirs_f, args),
        "flops": our_flops / their_flops,
        "linear/primal": flops_of(linear.jaxpr) / primal,
    }


def _seconds(g: Any, args: Any, times: int) -> float:
    jax.block_until_ready(g(*args))
    start = time.perf_counter()
    for _ in range(times):
        out = g(*args)
    jax.block_until_ready(out)
    return (time.perf_counter() - start) / times


def additive_memory(transform: Callable[..., Any], n: int) -> int:
    """Temporary bytes of the gradient of a loop of n turns that adds up terms."""

    def f(x):
        return jnp.sum(lax.fori_loop(0, n, lambda i, s: s + jnp.sin(i * x), jnp.zeros(100)))

    return cost(jax.jit(transform(f)).lower(jnp.ones(100)).compile())[1]


def hessian_flops() -> tuple[float, float]:
    """XLA's flops of one Hessian-vector product: by a linearized gradient, and by jvp of grad."""
    f, (params, x, label) = perceptron()
    g = ad.grad(lambda p: f(p, x, label))
    _, hessian = jax.jit(lambda p: ad.linearize(g, p))(params)
    once = cost(jax.jit(lambda h, t: h(t)).lower(hessian, params).compile())[0]
    fused = cost(jax.jit(lambda p, t: jax.jvp(jax.grad(lambda q: f(q, x, label)), (p,), (t,))[1]).lower(params, params).compile())[0]
    return once, fused


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    print(f"jax {jax.__version__}, python {platform.python_version()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind}, float32")
    print(f"{repeats} interleaved repeats; every number is ours / jax.grad, the last column linear program / primal\n")
    columns = ("run", "temp", "trace", "flops", "linear/primal")
    print(f"{'':22s}" + "".join(f"{c:>15s}" for c in columns))
    for name in PROBLEMS:
        row = compare(name, repeats)
        print(f"{name:22s}" + "".join(f"{row[c]:15.3f}" for c in columns), flush=True)
    print("\ntemporary bytes of the gradient of an additive loop, by its static number of turns")
    for name, transform in (("ours", ad.grad), ("jax.grad", jax.grad)):
        print(f"{name:22s}" + "".join(f"{n:>8d}: {additive_memory(transform, n):>10d}" for n in (10, 100, 1000, 10_000)))
    once, fused = hessian_flops()
    print(f"\nflops of a Hessian-vector product, linearized once / jvp of grad: {once / fused:.3f}")


if __name__ == "__main__":
    main()
