"""A sampler is written for one chain: no batch, no mask and no loop of a transformation's stands in its source."""

import ast
import re
from pathlib import Path

import pytest

import luciole

FOLDER = Path(luciole.inference.__file__).parent  # of it, kernels/ and run/
FILES = (
    "nuts",
    "hmc",
    "slice",
    "elliptical",
    "random_walk",
    "prior",
    "trajectory",
    "chain",
    "starts",
    "adaptation",
    "integrator",
    "metric",
)
# What batches, what asks a batch, and what hides from the compiler where a chain is in its program.
REFUSED = {
    "vmap", "pmap", "shard_map", "any_lane", "custom_vmap", "xmap", "vectorize",
    "cond", "switch", "select", "select_n", "while_loop", "fori_loop", "scan", "map",
}  # fmt: skip
MASK = re.compile(r"(^|_)(live|alive|active|running|going|done|halted|finished|mask|masks|lane|lanes|on)(_|$)")
AXIS = re.compile(r"(^|_)(batch|batched|chains|lanes|members)(_|$)")


def identifiers(tree):
    """Every name, attribute, argument and imported name, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name, node.lineno
            case ast.alias(name=name):
                yield name.split(".")[-1], node.lineno


def called(node):
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def is_program(node):
    decorators = getattr(node, "decorator_list", [])
    return any(isinstance(part, ast.Name) and part.id == "program" for d in decorators for part in ast.walk(d))


def batched_by_hand(source):
    """What a sampler's source must not hold, as "line: what"."""
    tree = ast.parse(source)
    found = [(line, name) for name, line in identifiers(tree) if name in REFUSED and (name, line) not in set(_tree_maps(tree))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) == "where" and node.args:
            found += [(line, f"where on {name}") for name, line in identifiers(node.args[0]) if MASK.search(name)]
        if isinstance(node, ast.FunctionDef) and is_program(node):
            found += [(line, name) for name, line in identifiers(node) if AXIS.search(name) or name in ("in_axes", "axis_size")]
    return [f"{line}: {what}" for line, what in sorted(found)]


def _tree_maps(tree):
    """`jax.tree.map` goes over leaves, not members."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "map" and ast.unparse(node.value) == "jax.tree":
            yield "map", node.lineno


@pytest.mark.parametrize("name", FILES)
def test_no_sampler_is_batched_by_hand(name):
    (path,) = FOLDER.glob(f"[kr]*/{name}.py")
    assert batched_by_hand(path.read_text()) == []


def test_the_files_hold_the_programs():
    """Otherwise the test above looks in the wrong place."""
    holding = {path.stem for path in FOLDER.glob("[kr]*/*.py") if any(is_program(node) for node in ast.walk(ast.parse(path.read_text())))}
    assert {"nuts", "hmc", "slice", "elliptical", "trajectory", "chain", "starts", "adaptation"} <= holding <= set(FILES)


@pytest.mark.parametrize(
    "line",
    [
        "from jax import vmap as v",
        "step = jax.vmap(step)",
        "step = jax.pmap(step)",
        "import jax.custom_batching.custom_vmap",
        "while any_lane(going): pass",
        "x = lax.cond(going, f, g, x)",
        "x = jax.lax.while_loop(going, f, x)",
        "x = jax.lax.fori_loop(0, 3, f, x)",
        "x, _ = lax.scan(f, x, None, 3)",
        "x = lax.map(f, x)",
        "x = jnp.where(live, new, old)",
        "x = jnp.where(~state.is_done[:, None], new, old)",
        "x = np.where(walk.going & ok, new, old)",
        "@program\ndef move(batch): return batch",
        "@program(heavy=True)\ndef move(x): return x.sum(num_chains)",
    ],
)
def test_what_is_batched_by_hand_is_seen(line):
    assert batched_by_hand(line)


def test_what_is_not_passes():
    assert not batched_by_hand("@program\ndef f(x):\n    y = jax.tree.map(g, x)\n    return jnp.where(jnp.isfinite(y), y, jnp.inf)")
