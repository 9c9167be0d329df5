"""Networks on graphs against plain loops over nodes and edges, and what must not change them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import luciole as lc
from luciole import dist
from luciole import transforms as lt

DEPTH, WIDTH, LENGTH = 2, 6, 8


def fingerprints(graphs):
    lc.deterministic("f", lc.neural_fingerprint(graphs, DEPTH, WIDTH, LENGTH))
    lc.deterministic("m", lc.directed_messages(graphs, 3, WIDTH))


def drawn(model, graphs, scale=1.0):
    """Weights as from the prior, by NumPy, which compiles nothing."""
    draw, sites = np.random.default_rng(0), lc.trace(model, graphs).latents.values()
    return {s.name: scale * draw.normal(size=s.shape).astype(np.float32) / (s.shape[-2] ** 0.5 if len(s.shape) > 1 else 1) for s in sites}


def at(graphs, weights):
    """Both networks, with given weights."""
    found = lc.posterior_predictive(fingerprints, jax.random.key(1), {n: v[None] for n, v in weights.items()}, graphs)
    return found["f"][0], found["m"][0]


@pytest.fixture(scope="module")
def weights(graphs):
    return drawn(fingerprints, graphs)


@pytest.fixture(scope="module")
def values(graphs, weights):
    return at(graphs, weights)


def neighbours(nodes, edges):
    near = [[] for _ in nodes]
    for e, (a, b) in enumerate(edges):
        near[a].append((b, e))
        near[b].append((a, e))
    return near


def softmax(x):
    x = np.exp(x - x.max())
    return x / x.sum()


def plain_fingerprint(nodes, edges, features, w):
    near, r, total = neighbours(nodes, edges), np.asarray(nodes, float), 0.0
    for layer in range(DEPTH + 1):
        if layer:
            new = []
            for a in range(len(nodes)):
                out = r[a] @ w[f"fingerprint.{layer}.self.w"] + w[f"fingerprint.{layer}.b"]
                if near[a]:
                    around = sum(np.concatenate([r[b], features[e]]) for b, e in near[a])
                    out = out + around @ w[f"fingerprint.{layer}.neighbours.w"][len(near[a]) - 1]
                new.append(np.maximum(out, 0))
            r = np.array(new)
        total = total + sum(softmax(x @ w[f"fingerprint.{layer}.write.w"] + w[f"fingerprint.{layer}.write.b"]) for x in r)
    return total


def plain_messages(nodes, edges, features, w):
    near = neighbours(nodes, edges)
    start = {}
    for e, (a, b) in enumerate(edges):
        for here, there in ((a, b), (b, a)):
            start[here, there] = np.concatenate([nodes[here], features[e]]) @ w["messages.in.w"] + w["messages.in.b"]
    h = {edge: np.maximum(v, 0) for edge, v in start.items()}
    for _ in range(2):
        h = {
            (a, b): np.maximum(start[a, b] + sum((h[c, a] for c, _ in near[a] if c != b), np.zeros(WIDTH)) @ w["messages.step.w"], 0)
            for a, b in h
        }
    total = np.zeros(WIDTH)
    for a, x in enumerate(nodes):
        came = sum((h[c, a] for c, _ in near[a]), np.zeros(WIDTH))
        total += np.maximum(np.concatenate([x, came]) @ w["messages.out.w"] + w["messages.out.b"], 0)
    return total


@pytest.mark.parametrize(("which", "plain"), [(0, plain_fingerprint), (1, plain_messages)])
def test_equals_a_plain_loop_on_100_graphs(parts, weights, values, which, plain):
    expected = np.array([plain(*part, weights) for part in parts])
    np.testing.assert_allclose(values[which], expected, rtol=1e-4, atol=1e-4)


def test_a_fingerprint_counts_its_nodes(graphs, values):
    np.testing.assert_allclose(values[0].sum(axis=1), (DEPTH + 1) * graphs.num_nodes, rtol=1e-5)


def test_order_of_nodes_plays_no_part(graphs, weights, values):
    for seed in range(3):
        other = graphs.permuted(seed)
        assert (other.nodes != graphs.nodes).any() and (other.edges != graphs.edges).any()
        for a, b in zip(at(other, weights), values, strict=True):
            assert np.abs(a - b).max() <= 1e-5 * max(1.0, np.abs(b).max() / LENGTH)


def padded(graphs):
    packer = graphs.packer(100)
    packer.capacities, packer.edge_capacity = tuple(c + 37 for c in packer.capacities), packer.edge_capacity + 50
    return packer.pack(np.arange(100))


def test_padding_changes_nothing_but_the_kernels_that_xla_picks_by_shape(graphs, weights, values):
    for a, b in zip(at(padded(graphs), weights), values, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_what_stands_in_padding_changes_no_bit(graphs, weights):
    plain = padded(graphs)
    is_padding, is_edge = plain.node < 0, plain.ends[:, 0] == len(plain.nodes)
    filled = dataclasses.replace(
        plain,
        nodes=np.where(is_padding[:, None], np.float32(3), plain.nodes),
        node_sums=np.where(is_padding[:, None], np.float32(2), plain.node_sums),
        edge_sums=np.where(is_padding[:, None], np.float32(5), plain.edge_sums),
        edge_features=np.where(is_edge[:, None], np.float32(7), plain.edge_features),
    )
    assert is_padding.sum() == 6 * 37 and is_edge.sum() == 50

    def observed(graphs):
        f = jnp.concatenate([lc.neural_fingerprint(graphs, DEPTH, WIDTH, LENGTH), lc.directed_messages(graphs, 3, WIDTH)], 1)
        lc.factor("f", jnp.sin(f).sum())

    value_and_grad = jax.jit(lambda density, u: lt.value_and_grad(density)(u))
    one, other = (value_and_grad(lc.log_density(observed, g), weights) for g in (plain, filled))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_companions_play_no_part(graphs, weights, values):
    rows = np.array([41, 3, 3, 99])
    for found, of_all in zip(at(graphs[rows], weights), values, strict=True):
        np.testing.assert_allclose(found, of_all[rows], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_gradients_against_jax_and_finite_differences(x64, parts):
    graphs = lc.Graphs.of(parts[:12], max_degree=5)
    y = np.linspace(-1, 1, 12)

    def model(graphs, y):
        f = lc.neural_fingerprint(graphs, 1, WIDTH, LENGTH, activation=jnp.tanh)
        both = jnp.concatenate([f, lc.directed_messages(graphs, 2, width=5, activation=jnp.tanh)], 1)
        mean = lc.dense("out", both)
        with lc.plate("row", len(graphs)):
            lc.sample("y", dist.Normal(mean, 1.0), obs=y)

    density = lc.log_density(model, graphs, y)
    u = {n: 0.5 * v.astype(float) for n, v in drawn(lambda g: model(g, y), graphs).items()}
    ours, theirs = jax.jit(lambda u: (lt.grad(density)(u), jax.grad(density)(u)))(u)
    value, draw = jax.jit(density), np.random.default_rng(0)
    for name in u:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-9, atol=1e-9 * np.abs(theirs[name]).max() + 1e-12, err_msg=name)
        direction = draw.normal(size=u[name].shape)
        ends = [value({**u, name: u[name] + h * direction}) for h in (1e-5, -1e-5)]
        np.testing.assert_allclose(np.sum(ours[name] * direction), (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-5, err_msg=name)


def distances(f, pairs):
    a, b = f[pairs[:, 0]], f[pairs[:, 1]]
    return 1 - np.minimum(a, b).sum(1) / np.maximum(a, b).sum(1)


@pytest.mark.parametrize(("scale", "is_hash"), [(30.0, True), (0.01, False)])
def test_large_random_weights_are_a_hash_and_small_ones_are_none(graphs, scale, is_hash):
    def model(graphs):
        lc.deterministic("f", lc.neural_fingerprint(graphs, 2, 30, 512, activation=jnp.tanh))

    pairs = np.random.default_rng(0).integers(100, size=(1000, 2))
    samples = {n: v[None] for n, v in drawn(model, graphs, scale).items()}
    f = lc.posterior_predictive(model, jax.random.key(0), samples, graphs)["f"][0]
    r = np.corrcoef(distances(f, pairs), distances(lc.circular_fingerprint(graphs, 2, 512, counts=True), pairs))[0, 1]
    assert (r > 0.8) == is_hash, r


def test_batches_share_one_shape_until_one_is_too_large(graphs, caplog):
    packer = graphs.packer(10)
    draw, shapes = np.random.default_rng(0), set()
    for _ in range(200):
        shapes.add(tuple(x.shape for x in jax.tree.leaves(packer.pack(draw.permutation(100)[:10]))))
    assert len(shapes) == 1 and packer.regrown == 0
    packer.capacities = tuple(c // 2 for c in packer.capacities)
    with caplog.at_level("INFO", logger="luciole"):
        packed = packer.pack(np.arange(10))
    assert packer.regrown == 1 and "larger arrays" in caplog.text
    assert (np.asarray(packed.node) >= 0).sum() == graphs.num_nodes[:10].sum()


def test_layers_are_sites_named_by_path_with_their_priors():
    x = np.ones((3, 4))

    def model(index):
        width = lc.sample("width", dist.HalfNormal(1.0))
        h = lc.dense("net.hidden", x, 5, scale=width)
        return lc.dense("net.out", h, bias_scale=None) + lc.embedding("net.group", index, 3, 2, scale=2.0)[:, 0]

    program = lc.trace(model, np.array([0, 2, 1]))
    shapes = {n: s.shape for n, s in program.latents.items()}
    expected = {"width": (), "net.hidden.w": (4, 5), "net.hidden.b": (5,), "net.out.w": (5,), "net.group.w": (3, 2)}
    assert shapes == expected
    drawn = lc.prior_predictive(model, jax.random.key(0), 4000, np.array([0, 2, 1]))
    ratio = drawn["net.hidden.w"] / drawn["width"][:, None, None]
    for value, sd in ((ratio, 0.5), (drawn["net.out.w"], 5**-0.5), (drawn["net.group.w"], 2.0), (drawn["net.hidden.b"], 1.0)):
        assert abs(value.std() / sd - 1) < 0.05


NODES, EDGES = np.ones((3, 2)), np.array([[0, 1], [1, 2]])


@pytest.mark.parametrize(
    ("graphs", "message"),
    [
        (lambda: [(NODES, EDGES), (np.ones((0, 2)), np.zeros((0, 2), int))], r"'graph 1' \(row 1\) has no nodes"),
        (lambda: [(NODES, [[0, 3]])], "edge to a node that is not there"),
        (lambda: [(NODES, [[1, 1]])], "from a node to itself"),
        (lambda: [(NODES, [[0, 1], [1, 0]])], "edge listed twice"),
        (lambda: [(np.full((3, 2), np.nan), EDGES)], "not finite"),
        (lambda: [(NODES, EDGES), (np.ones((2, 5)), [[0, 1]])], r"graph 1: nodes has shape \(2, 5\)"),
        (lambda: [(NODES, EDGES, np.ones((1, 2)))], r"edge_features has shape \(1, 2\)"),
        (lambda: [], "there is no graph"),
    ],
)
def test_graphs_that_are_none_are_named(graphs, message):
    with pytest.raises(lc.ModelError, match=message):
        lc.Graphs.of(graphs())


def test_degrees_above_the_largest_are_named():
    star = (np.ones((5, 1)), [[0, i] for i in range(1, 5)])
    with pytest.raises(lc.ModelError, match=r"'hub' \(row 0\) has a node with 4 neighbours, more than max_degree=3"):
        lc.Graphs.of([star], names=["hub"], max_degree=3)


def in_a_plate(g):
    with lc.plate("row", 3):
        lc.dense("a", np.ones((3, 2)))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda g: lc.neural_fingerprint(np.ones(3)), "graphs is a ndarray"),
        (lambda g: lc.neural_fingerprint(g, -1), "depth is -1"),
        (lambda g: lc.neural_fingerprint(g, 2, scale=[1.0, 1.0]), "2 scales given, and 3 layers"),
        (lambda g: lc.neural_fingerprint(g, scale=-1.0), "the prior's scale is -1.0"),
        (lambda g: lc.directed_messages(g, 0), "depth is 0"),
        (lambda g: lc.dense("a", np.ones((2, 0)), 3), "at least one input"),
        (lambda g: lc.dense("a", np.ones((2, 1)), 0), "units is 0"),
        (lambda g: lc.graph_convolution("a", g, np.ones((7, 2)), 3), r"x has shape \(7, 2\)"),
        (lambda g: lc.embedding("a", np.array([0, 3]), 3, 2), "index goes from 0 to 3"),
        (lambda g: lc.embedding("a", np.array([0.5]), 3, 2), "integers expected"),
        (in_a_plate, "stands inside of a plate"),
    ],
)
def test_layers_say_what_is_wrong(graphs, model, message):
    with pytest.raises(lc.ModelError, match=message):
        lc.trace(model, graphs)


def test_saved_graphs_are_the_same(graphs, tmp_path):
    graphs.save(tmp_path / "g.npz")
    loaded = lc.Graphs.load(tmp_path / "g.npz")
    for field in dataclasses.fields(graphs):
        assert np.array_equal(getattr(loaded, field.name), getattr(graphs, field.name)), field.name
    np.savez(tmp_path / "other.npz", x=1)
    with pytest.raises(lc.ModelError, match=r"that `Graphs\.save` wrote"):
        lc.Graphs.load(tmp_path / "other.npz")


def test_rows_stay_with_their_graphs(graphs):
    some = graphs[graphs.num_nodes > 4]
    assert np.array_equal(graphs.num_nodes[some.rows], some.num_nodes) and (some[::-1].rows == some.rows[::-1]).all()
    assert len(graphs[5]) == 1 and repr(graphs).startswith("Graphs(100 graphs")
