"""What the tests of rules share: an operation on parts of its operands, put together, against the operation on the whole.

The shards are NumPy parts here and run one after another: no mesh, no devices.
"""

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from luciole.sharding.factors import NEUTRAL, Local, Shard
from luciole.sharding.rules import factors_of, rule_of
from luciole.transforms.jax_compat import bind, open_jaxpr, subjaxprs

QUICK = {"xla_backend_optimization_level": 0}
COMBINE = {"sum": np.add, "max": np.maximum, "min": np.minimum, "and": np.logical_and, "or": np.logical_or}


def equations(jaxpr):
    for eqn in open_jaxpr(jaxpr)[0].eqns:
        yield eqn
        for inner in subjaxprs(eqn):
            yield from equations(inner)


def equation(name, function, *args):
    """The first equation of a primitive in the program of a function, at any depth."""
    return next(eqn for eqn in equations(jax.make_jaxpr(function)(*args)) if eqn.primitive.name == name)


def block(x, dim, k, size):
    return x[(slice(None),) * dim + (slice(k * size, (k + 1) * size),)]


def padded(x, dim, size, combine):
    """`x` with `size` entries along `dim`: neutral ones behind its own for a combined factor, else anything."""
    missing = size - x.shape[dim]
    if not missing:
        return x
    widths = [(0, missing if d == dim else 0) for d in range(x.ndim)]
    if not jnp.issubdtype(x.dtype, jnp.number) and x.dtype != bool:
        return x[(slice(None),) * dim + (np.minimum(np.arange(size), x.shape[dim] - 1),)]  # keys
    filler = 1 if combine is None else NEUTRAL[combine]
    if combine in ("max", "min") and np.issubdtype(x.dtype, np.integer):
        filler = np.iinfo(x.dtype).min if combine == "max" else np.iinfo(x.dtype).max
    return np.pad(np.asarray(x), widths, constant_values=filler)


def parts_of(eqn, operands, shards, counts):
    """For each shard its number, the parts of the operands that it has, and the shapes of its results."""
    for where in np.ndindex(*counts):
        parts, shapes = list(operands), [list(v.aval.shape) for v in eqn.outvars]
        for factor, k, count in zip(shards, where, counts, strict=True):
            for n, dim in enumerate(factor.operands):
                if dim is not None:
                    size = -(-parts[n].shape[dim] // count)
                    parts[n] = block(padded(parts[n], dim, size * count, factor.combine), dim, k, size)
            for n, dim in enumerate(factor.results):
                if dim is not None:
                    shapes[n][dim] = -(-shapes[n][dim] // count)
        yield where, parts, tuple(map(tuple, shapes))


def on_shard(eqn, parts, shapes, shards, where, counts):
    """Results on one shard; `where` is its number along each of the factors in `shards`, `counts` how often each is split."""
    rule, axes = rule_of(eqn), [f"axis{n}" for n in range(len(shards))]
    local = Local(
        tuple(Shard(factor, (axis,)) for factor, axis in zip(shards, axes, strict=True)),
        shapes,
        lambda names: np.int32(where[axes.index(names[0])]),
        lambda names: counts[axes.index(names[0])],
    )
    outs = bind(eqn, parts) if rule.run is None else rule.run(eqn, parts, local)
    assert [tuple(out.shape) for out in outs] == list(shapes)
    return outs


def without_keys(results):
    return [jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x for x in results]


def results_of(jobs):
    """For each (equation, operands, splits) the whole results, and those of every shard for each (factors, counts); in one program."""
    prepared = [[list(parts_of(eqn, operands, *split)) for split in splits] for eqn, operands, splits in jobs]

    def program(wholes, all_parts):
        return [without_keys(bind(eqn, whole)) for (eqn, *_), whole in zip(jobs, wholes, strict=True)], [
            [
                [
                    without_keys(on_shard(eqn, own, shapes, split[0], where, split[1]))
                    for (where, _, shapes), own in zip(several, parts, strict=True)
                ]
                for split, several, parts in zip(splits, *both, strict=True)
            ]
            for (eqn, _, splits), *both in zip(jobs, prepared, all_parts, strict=True)
        ]

    inputs = [[[parts for _, parts, _ in several] for several in splits] for splits in prepared]
    wholes, found = jax.jit(program, compiler_options=QUICK)([operands for _, operands, _ in jobs], inputs)
    for whole, splits, results in zip(wholes, prepared, found, strict=True):
        yield (
            list(map(np.asarray, whole)),
            [
                {where: list(map(np.asarray, outs)) for (where, *_), outs in zip(*both, strict=True)}
                for both in zip(splits, results, strict=True)
            ],
        )


def assembled(eqn, outputs, shards, counts):
    """The whole results from those of the shards."""
    for level in reversed(range(len(shards))):
        factor, joined = shards[level], {}
        for where in np.ndindex(*counts[:level]):
            pieces = [outputs[(*where, k)] for k in range(counts[level])]
            joined[where] = [
                reduce(COMBINE[factor.combine], column)
                if factor.combine
                else column[0]
                if factor.results[n] is None
                else np.concatenate(column, axis=factor.results[n])
                for n, column in enumerate(zip(*pieces, strict=True))
            ]
        outputs = joined
    whole = outputs[()]
    return [
        x[tuple(slice(0, size) for size in (*v.aval.shape, *x.shape[len(v.aval.shape) :]))] for x, v in zip(whole, eqn.outvars, strict=True)
    ]


def check_jobs(jobs):
    """Each (equation, operands, splits): put together, the shards' results of every split are those of the whole."""
    for (eqn, _, splits), (expected, outputs) in zip(jobs, results_of(jobs), strict=True):
        for (shards, counts), parts in zip(splits, outputs, strict=True):
            for a, b in zip(assembled(eqn, parts, shards, counts), expected, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-6, err_msg=f"{eqn.primitive.name} {shards}")


def check(eqn, operands, shards, counts):
    """The operation split along several factors at once."""
    check_jobs([(eqn, operands, [(shards, counts)])])


def each_factor(eqn, operands, counts=(2,)):
    """The splits along each factor that holds for any operands, over each number of shards by which it can be split."""
    splits = [
        ([factor], [count])
        for factor in factors_of(eqn)
        if factor.how != "aligned"
        for count in counts
        if factor.size % count == 0 or (factor.padding != "never" and factor.size > count)
    ]
    return eqn, operands, splits


def check_all(eqn, operands, counts=(2,)):
    check_jobs([each_factor(eqn, operands, counts)])


def filled(shape, dtype: Any = np.float32, seed=0):
    draws = np.asarray(np.random.RandomState(seed).randn(*shape))
    return draws.astype(dtype) if np.dtype(dtype).kind in "fc" else (np.abs(draws) * 10).astype(dtype)


def values_of(eqn, operands):
    """Operands of an equation: those given if they are its own, else some of the right types."""
    variables = [v.aval for v in eqn.invars if not hasattr(v, "val")]
    own = len(variables) == len(operands) and all(
        a.shape == x.shape and a.dtype == x.dtype for a, x in zip(variables, operands, strict=True)
    )
    given = iter(operands if own else [filled(a.shape, a.dtype, seed=n) for n, a in enumerate(variables)])
    return [v.val if hasattr(v, "val") else next(given) for v in eqn.invars]
