"""Networks that read molecules, on 1,128 measured solubilities (Delaney 2004): errors, intervals, evidence, speed, beside their peers.

    python dev.py bench molecules [row ...] [--results FOLDER] [--chemprop FILE] [--pyg PYTHON]

Rows; all but `settings` without arguments:

    random      how far large and small random weights agree with circular fingerprints
    invariance  the order of atoms, padding, gradients against JAX's
    folds       five contiguous folds, mean squared error: the mean, circular fingerprints, one network and ensembles, Chemprop
    intervals   what calibrated intervals of the folds hold, and their log score, beside a network with constant variance
    splits      ten random splits, root mean squared error
    evidence    settings chosen by evidence beside settings chosen by validation
    speed       forwards and backwards over all molecules: packed, padded to the largest, PyTorch Geometric; interleaved
    settings    the validation errors of the settings that were tried, from which those of the table were chosen (an hour)

Trained networks leave their predictions in FOLDER (default: a folder of this name in the temporary folder), so that a run that is stopped
goes on; `folds` and `splits` take about an hour of one core without them. FILE is what `_chemprop.py` wrote; PYTHON an interpreter with
torch and torch_geometric. Warm-up: every program is compiled and run three times before it is timed; medians.
"""

import argparse
import json
import subprocess
import tempfile
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from _chemprop import summary
from _common import SHARED, announce, interleaved, median
from _splits import NUM_FOLDS, NUM_SPLITS, duplicates, folds, read, split, told
from sklearn.neural_network import MLPRegressor

import luciole as lc
from luciole import dist
from luciole import transforms as lt
from luciole.inference.training.prediction import Prediction
from luciole.inference.training.rows import Rows

DATA = SHARED / "data" / "delaney.csv"


@dataclass(frozen=True)
class Settings:
    """A network and how it is trained; `hidden=0` is a linear model of the fingerprint. name: of the files with its predictions."""

    name: str
    kind: str = "fingerprint"
    depth: int = 4
    width: int = 20
    length: int = 50
    hidden: int = 100
    scale: float = 1.0
    bias: float = 1.0
    noise: float = 0.2
    num_steps: int = 4000
    step_size: float = 3e-3


NET = Settings("net")
LINEAR = Settings("linear", hidden=0, bias=0.1, num_steps=1000)
MESSAGES = Settings("messages", kind="messages", depth=3, width=100, num_steps=2000)

SMALL = Settings("small", depth=1, width=5, length=10, hidden=0, noise=0.5, num_steps=600)

# What was tried before the three above were chosen, on the validation chunks of folds 0, 2 and 4, one network each.
TRIED = [
    *(replace(NET, name=f"t{i}", noise=n, scale=s, num_steps=700) for i, (n, s) in enumerate([(0.3, 1.0), (0.5, 1.0), (0.5, 1.5)])),
    *(replace(NET, name=f"u{i}", noise=n, scale=s, num_steps=2000) for i, (n, s) in enumerate([(0.3, 1.0), (0.3, 0.7), (0.5, 1.0)])),
    *(replace(NET, name=f"v{i}", noise=n, num_steps=2000) for i, n in enumerate([0.2, 0.1])),
    replace(NET, name="w0", noise=0.3, num_steps=4000),
    replace(NET, name="w1", noise=0.3, scale=1.4, num_steps=4000),
    replace(NET, name="w2", noise=0.3, num_steps=2000, step_size=6e-3),
    replace(NET, name="w3", noise=0.3, num_steps=2000, depth=3),
    replace(NET, name="net"),
    *(replace(NET, name=f"n{i}", scale=s, bias=b, noise=0.4, num_steps=700) for i, (s, b) in enumerate([(1.0, 0.3), (1.5, 0.1)])),
    *(replace(LINEAR, name=f"l{i}", bias=1.0, noise=n, num_steps=t) for i, (n, t) in enumerate([(0.3, 2000), (0.2, 2000), (0.2, 700)])),
    replace(LINEAR, name="l6", bias=1.0, num_steps=4000),
    replace(LINEAR, name="l3", bias=1.0, noise=0.4, length=200, num_steps=2000),
    replace(LINEAR, name="l4", bias=1.0, noise=0.3, length=100),
    replace(LINEAR, name="l5", bias=1.0, scale=0.7, num_steps=2000),
    replace(LINEAR, name="linear"),
    *(replace(MESSAGES, name=f"m{i}", noise=0.3, scale=s, num_steps=t) for i, (s, t) in enumerate([(1.0, 700), (1.0, 2000), (0.5, 2000)])),
    replace(MESSAGES, name="messages"),
]


def model(graphs, z=None, *, settings):
    s = settings
    read = lc.neural_fingerprint if s.kind == "fingerprint" else lc.directed_messages
    sizes = {"length": s.length} if s.kind == "fingerprint" else {}
    priors = {"scale": s.scale, "bias_scale": s.bias}
    f = read(graphs, s.depth, s.width, **sizes, **priors)
    if s.hidden:
        f = jax.nn.relu(lc.dense("hidden", f, s.hidden, **priors))
    mean = lc.dense("out", f, **priors)
    with lc.plate("molecule", len(graphs)):
        lc.sample("z", dist.Normal(mean, s.noise), obs=z)


class Molecules:
    """The data, and trained networks by settings, fold or split, and seed, from the folder of results or from training."""

    def __init__(self, results):
        self.smiles, self.y = read(DATA)
        self.graphs = lc.graphs_from_smiles(self.smiles)
        self.results = results
        results.mkdir(parents=True, exist_ok=True)

    def rows(self, place):
        """Train, validation and test rows: of fold 0 to 4, then of split 5 to 14."""
        return folds(len(self.y))[place] if place < NUM_FOLDS else split(len(self.y), place - NUM_FOLDS)

    def predictions(self, settings, place, restarts, seed=0):
        """Predictions of the validation and the test rows, (restart, row) each, in the units of the data."""
        path = self.results / f"{settings.name}_f{place}_s{seed}.npz"
        if path.exists():
            with np.load(path) as file:
                found = file["vm"], file["tm"]
            if len(found[0]) >= restarts:
                return found[0][:restarts], found[1][:restarts]
        train, valid, test = self.rows(place)
        centre, spread = self.y[train].mean(), self.y[train].std()
        z = ((self.y - centre) / spread).astype(np.float32)
        fit = lc.train(
            model, jax.random.key(1000 * seed + place), self.graphs[train], z[train], settings=settings, num_steps=settings.num_steps,
            batch_size=100, restarts=restarts, step_size=settings.step_size, progress_bar=False,
        )  # fmt: skip
        found = [fit.predict(self.graphs[r], settings=settings).members * spread + centre for r in (valid, test)]
        np.savez(path, vm=found[0], tm=found[1], seconds=fit.cost.seconds)
        return found[0], found[1]

    def mse(self, prediction, rows):
        return float(np.mean((prediction - self.y[rows]) ** 2))


def distances(f, pairs):
    a, b = f[pairs[:, 0]], f[pairs[:, 1]]
    return 1 - np.minimum(a, b).sum(1) / np.maximum(a, b).sum(1)


def random(data, options):
    """Radius 2, width 100, length 2048, 6,000 random pairs, against binary and count fingerprints of the same radius."""
    pairs = np.random.default_rng(0).integers(0, len(data.graphs), (6000, 2))
    circular = [distances(lc.circular_fingerprint(data.graphs, counts=counts), pairs) for counts in (False, True)]

    def fingerprint(graphs, scale):  # the weights' standard deviation, whatever the number of inputs, as in the paper's experiment
        inputs = [62, 68, 120]
        scales = [scale * np.sqrt(n).item() for n in inputs]
        lc.deterministic("f", lc.neural_fingerprint(graphs, 2, 100, 2048, scale=scales, bias_scale=scale, activation=jnp.tanh))

    for scale in (10.0, 0.01):
        for seed in (0, 1, 2):
            f = lc.prior_predictive(fingerprint, jax.random.key(seed), 1, data.graphs, scale)["f"][0]
            r = [np.corrcoef(distances(f, pairs), c)[0, 1] for c in circular]
            print(f"random weights of scale {scale}, seed {seed}: r = {r[0]:.3f} with bits, {r[1]:.3f} with counts", flush=True)


def normal_weights(program):
    """Values of the sites as from their priors, by NumPy."""
    draw, sites = np.random.default_rng(0), program.latents.items()
    return {n: (draw.normal(size=s.shape) / (s.shape[-2] ** 0.5 if len(s.shape) > 1 else 1)).astype(np.float32) for n, s in sites}


def invariance(data, options):
    def both(graphs):
        lc.deterministic("f", lc.neural_fingerprint(graphs))
        lc.deterministic("m", lc.directed_messages(graphs))

    weights = {n: v[None] for n, v in normal_weights(lc.trace(both, data.graphs)).items()}

    def at(graphs):
        found = lc.posterior_predictive(both, jax.random.key(0), weights, graphs)
        return found["f"][0], found["m"][0]

    plain, other = at(data.graphs), at(data.graphs.permuted(1))
    for name, a, b in zip(("fingerprint", "messages"), plain, other, strict=True):
        print(f"{name}: largest value {np.abs(a).max():.1f}; order of atoms changes it by at most {np.abs(a - b).max():.1e}")
    packer = data.graphs.packer(len(data.graphs))
    packer.capacities, packer.edge_capacity = tuple(c + 96 for c in packer.capacities), packer.edge_capacity + 96
    padded = at(packer.pack(np.arange(len(data.graphs))))
    for name, a, b in zip(("fingerprint", "messages"), plain, padded, strict=True):
        print(f"{name}: 96 rows of padding for each degree change it by at most {np.abs(a - b).max():.1e}")


def circular(data, place, counts):
    """Test error of the better of ridge regression and a tuned network on circular fingerprints, both by validation."""
    train, valid, test = data.rows(place)
    centre, best = data.y[train].mean(), {}
    for radius in (1, 2, 3):
        for length in (512, 2048):
            f = lc.circular_fingerprint(data.graphs, radius, length, counts=counts).astype(float)
            gram, cross = f[train].T @ f[train], f[train].T @ (data.y[train] - centre)
            for penalty in (0.3, 1, 3, 10, 30):
                prediction = f @ np.linalg.solve(gram + penalty * np.eye(length), cross) + centre
                best.setdefault("ridge", []).append((data.mse(prediction[valid], valid), data.mse(prediction[test], test)))
    f = lc.circular_fingerprint(data.graphs, 2, 1024, counts=counts)
    for hidden in (50, 100):
        for alpha in (1e-2, 1.0, 10.0):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # stopped by its number of epochs, which is one of its settings
                network = MLPRegressor(hidden_layer_sizes=(hidden,), alpha=alpha, max_iter=60, random_state=0, learning_rate_init=3e-3)
                prediction = network.fit(f[train], data.y[train] - centre).predict(f) + centre
            best.setdefault("network", []).append((data.mse(prediction[valid], valid), data.mse(prediction[test], test)))
    return {name: min(tried)[1] for name, tried in best.items()}, min(min(tried) for tried in best.values())[1]


def table(data, options):
    canonical = canonical_names(data.smiles)
    copies, across = duplicates(canonical)
    print(f"{copies} molecules stand in the file more than once; {across} groups of the same lie in more than one chunk\n")
    places = range(NUM_FOLDS)
    tests, trains = ([data.rows(f)[k] for f in places] for k in (2, 0))
    told("the mean", [data.mse(data.y[a].mean(), t) for a, t in zip(trains, tests, strict=True)])
    for counts in (False, True):
        found = [circular(data, f, counts) for f in places]
        for name in found[0][0]:
            told(f"circular, {'counts' if counts else 'bits'}, {name}", [f[0][name] for f in found])
        told(f"circular, {'counts' if counts else 'bits'}, the better by validation", [f[1] for f in found])
    for settings, restarts in ((LINEAR, 1), (NET, 10), (MESSAGES, 2)):
        name = {"net": "neural + net", "linear": "neural + linear", "messages": "directed messages + net"}[settings.name]
        predictions = [data.predictions(settings, f, restarts)[1] for f in places]
        told(f"{name}, one", [np.mean([data.mse(m, t) for m in p]) for p, t in zip(predictions, tests, strict=True)])
        if restarts > 1:
            told(f"{name}, {restarts}", [data.mse(p.mean(0), t) for p, t in zip(predictions, tests, strict=True)])
    both = [np.concatenate([data.predictions(s, f, r)[1] for s, r in ((NET, 10), (MESSAGES, 2))]) for f in places]
    told("all of them", [data.mse(p.mean(0), t) for p, t in zip(both, tests, strict=True)])
    if options.chemprop:
        found = summary(json.loads(options.chemprop.read_text()), data.y)
        told("Chemprop, one", [np.mean(m) for m in found["fold_mse"]])
        told(f"Chemprop, {found['models']}", found["fold_ensemble_mse"])


def canonical_names(smiles):
    from rdkit import Chem

    return [Chem.MolToSmiles(Chem.MolFromSmiles(s)) for s in smiles]


def prediction_of(members):
    return Prediction(members.mean(0), members.std(0), np.zeros(members.shape[1]), members)


INTERVALS = (("one network, constant variance", True, False), ("10 networks", False, False), ("10 networks, scaled", False, True))


def intervals(data, options):
    """90% intervals of the test molecules of all folds; noise from the validation molecules of each."""
    for name, alone, scale in INTERVALS:
        covered, scores = [], []
        for f in range(NUM_FOLDS):
            (_, valid, test), (v, t) = data.rows(f), data.predictions(NET, f, 10)
            groups = [(v[i : i + 1], t[i : i + 1]) for i in range(10)] if alone else [(v, t)]
            for of_valid, of_test in groups:
                p = prediction_of(of_test).calibrated(prediction_of(of_valid).noise_of(data.y[valid], scale))
                covered.append(p.coverage(data.y[test]))
                scores.append(p.log_score(data.y[test]))
        span = f"[{min(covered):.2f}, {max(covered):.2f}]"
        print(f"{name:32s} 90% intervals hold {np.mean(covered):.3f} {span}, log score {np.mean(scores):.3f}")


def splits(data, options):
    places = range(NUM_FOLDS, NUM_FOLDS + NUM_SPLITS)
    found = [(data.predictions(NET, p, 2)[1], data.rows(p)[2]) for p in places]
    told("neural + net, one", [np.mean([data.mse(m, t) for m in p]) ** 0.5 for p, t in found])
    told("neural + net, 2", [data.mse(p.mean(0), t) ** 0.5 for p, t in found])
    if options.chemprop:
        told("Chemprop, one", summary(json.loads(options.chemprop.read_text()), data.y)["split_rmse"])


def small_model(graphs, z=None, *, settings):
    """A linear model of a tenth of the fingerprint: curvatures that plain steps can follow."""
    s = settings
    f = lc.neural_fingerprint(graphs, s.depth, s.width, s.length, scale=s.scale, bias_scale=s.scale) / 10
    mean = lc.dense("out", f, scale=s.scale, bias_scale=s.scale)
    with lc.plate("molecule", len(graphs)):
        lc.sample("z", dist.Normal(mean, s.noise), obs=z)


def evidence(data, options):
    """100 molecules to train on, 100 to choose by, the rest to test: the setting with the largest bound, and that with the least error.

    Plain descent from the prior, 100 steps, 8 restarts; its bound ranks and is far from tight. Errors are of the mean of 3 networks.
    """
    train, valid, test = np.split(np.random.default_rng(0).permutation(len(data.y)), [100, 200])
    centre, spread = data.y[train].mean(), data.y[train].std()
    z = ((data.y - centre) / spread).astype(np.float32)
    grid = [
        replace(SMALL, depth=d, width=w, scale=s)
        for d, w, s in ((1, 5, 1.0), (3, 5, 1.0), (1, 15, 1.0), (1, 5, 0.3), (1, 5, 2.0), (3, 5, 0.5))
    ]
    found = []
    for s in grid:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", lc.LucioleWarning)  # kinks, which every network of rectified linear units has
            bound = lc.sgd_evidence(
                lambda graphs, z, s=s: small_model(graphs, z, settings=s), jax.random.key(0), data.graphs[train], z[train], start="prior",
                preconditioner=None, step_size=2e-4 / max(1.0, s.scale) ** 2, num_steps=100, num_restarts=8, evaluate_every=20,
                progress_bar=False,
            )  # fmt: skip
        fit = lc.train(
            small_model, jax.random.key(0), data.graphs[train], z[train], settings=s, num_steps=s.num_steps, restarts=3, progress_bar=False
        )
        errors = [data.mse(fit.predict(data.graphs[r], settings=s).mean * spread + centre, r) for r in (valid, test)]
        found.append((float(bound.bound), *errors))
        print(
            f"depth {s.depth} width {s.width:2d} scale {s.scale}: bound {bound.bound:.1f} +- {bound.bound_stderr:.1f} nats, "
            f"validation {errors[0]:.3f}, test {errors[1]:.3f}",
            flush=True,
        )
    by_evidence, by_validation = max(found)[2], min(found, key=lambda f: f[1])[2]
    print(f"chosen by evidence: test {by_evidence:.3f}; by validation: test {by_validation:.3f}; the mean: {data.mse(centre, test):.3f}")


def settings(data, options):
    for s in TRIED:
        errors = [data.mse(data.predictions(s, f, 1)[0][0], data.rows(f)[1]) for f in (0, 2, 4)]
        told(f"{s.name} {s.kind}", errors, f"noise {s.noise} scale {s.scale} depth {s.depth} hidden {s.hidden} steps {s.num_steps}")


def padded_network(graphs):
    """The same network on molecules padded to the largest: (molecule, atom, ...), neighbours by a table, every degree's product masked."""
    stops, size, g = np.cumsum(graphs.num_nodes), int(graphs.num_nodes.max()), len(graphs)
    x, near, ends = np.zeros((g, size, graphs.nodes.shape[1]), np.float32), np.full((g, size, graphs.max_degree), size), graphs.tables
    sums = np.zeros((g, size, graphs.edge_features.shape[1]), np.float32)
    for i, (stop, n) in enumerate(zip(stops, graphs.num_nodes, strict=True)):
        rows = slice(stop - n, stop)
        x[i, :n], sums[i, :n] = graphs.nodes[rows], ends.edge_sums[rows]
        near[i, :n] = np.where(ends.neighbours[rows] < 0, size, ends.neighbours[rows] - (stop - n))
    there = np.arange(size) < graphs.num_nodes[:, None]
    degree = np.eye(graphs.max_degree + 1, dtype=np.float32)[(near < size).sum(-1)][..., 1:]
    return [np.asarray(v) for v in (x, near.astype(np.int32), sums, degree, there.astype(np.float32))]


def padded_mean(w, x, near, sums, degree, there, by_masks=False):
    """`by_masks`: neighbours by a dense adjacency matrix and every degree's product on every atom, chosen afterwards: the usual way."""
    adjacency = (near[:, :, None, :] == np.arange(x.shape[1])[:, None]).sum(-1).astype(x.dtype) if by_masks else None

    def write(r, layer):
        p = jax.nn.softmax(r @ w[f"fingerprint.{layer}.write.w"] + w[f"fingerprint.{layer}.write.b"])
        return (p * there[..., None]).sum(1)

    r, f = x, write(x, 0)
    for layer in range(1, 5):
        matrices = w[f"fingerprint.{layer}.neighbours.w"]
        if by_masks:
            around = jnp.concatenate([adjacency @ r, sums], axis=-1)
            by_degree = sum(degree[..., d, None] * (around @ m) for d, m in enumerate(matrices))
        else:
            padded = jnp.concatenate([r, jnp.zeros_like(r[:, :1])], axis=1)
            around = jnp.concatenate([jax.vmap(lambda rows, table: rows[table].sum(1))(padded, near), sums], axis=-1)
            by_degree = jnp.einsum("gni,dio,gnd->gno", around, matrices, degree)
        r = jax.nn.relu(r @ w[f"fingerprint.{layer}.self.w"] + by_degree + w[f"fingerprint.{layer}.b"])
        f = f + write(r, layer)
    return jax.nn.relu(f @ w["hidden.w"] + w["hidden.b"]) @ w["out.w"] + w["out.b"]


def speed(data, options):
    """Value and gradient over all molecules in batches of 100, the last one filled up; collation apart."""
    z = ((data.y - data.y.mean()) / data.y.std()).astype(np.float32)
    whole = np.arange(1200) % len(z)
    rows = Rows((data.graphs, z), {}, "molecule", len(z), 100)
    batches = [rows.batch(b) for b in np.split(whole, 12)]
    u = normal_weights(lc.trace(model, data.graphs, z, settings=NET))
    arrays = padded_network(data.graphs)
    padded = [[v[b] for v in arrays] + [z[b]] for b in np.split(whole, 12)]

    def ours(u, batch):
        (graphs, z), _ = rows.arguments(batch)
        return -lc.log_density(model, graphs, z, settings=NET)(u)

    def to_largest(u, batch, by_masks=False):
        mean = padded_mean(u, *batch[:-1], by_masks=by_masks)
        inputs = {n: v.shape[-2] if v.ndim > 1 else v.shape[0] if n == "out.w" else 1 for n, v in u.items()}
        prior = sum(dist.Normal(0.0, inputs[n] ** -0.5).log_prob(v).sum() for n, v in u.items())
        return -(dist.Normal(mean, NET.noise).log_prob(batch[-1]).sum() + prior)

    steps = {
        "packed, our gradient": (jax.jit(lt.value_and_grad(ours)), batches),
        "packed, jax.grad": (jax.jit(jax.value_and_grad(ours)), batches),
        "padded to the largest": (jax.jit(jax.value_and_grad(to_largest)), padded),
        "padded, dense and masked": (jax.jit(jax.value_and_grad(partial(to_largest, by_masks=True))), padded),
    }
    values = {name: np.array([float(f(u, b)[0]) for b in of]) for name, (f, of) in steps.items()}
    assert all(np.allclose(v, values["packed, jax.grad"], rtol=1e-4) for v in values.values()), "not the same network"
    functions = {name: (lambda f=f, of=of: [jax.block_until_ready(f(u, b)) for b in of]) for name, (f, of) in steps.items()}
    peer = Peer(options.pyg) if options.pyg else None
    if peer:
        functions["PyTorch Geometric"] = peer.epoch
    for function in functions.values():
        for _ in range(3):
            function()
    times = interleaved(functions, 15)
    if peer:
        times["PyTorch Geometric"] = peer.seconds[-15:]
        print(peer.told)
    base = median(times["packed, our gradient"])
    for name, seconds in times.items():
        low, high = 1e3 * min(seconds), 1e3 * max(seconds)
        print(f"{name:24s} {1e3 * median(seconds):8.1f} ms [{low:.1f}, {high:.1f}], {median(seconds) / base:.2f} of ours")
    packing = interleaved({"packing": lambda: [rows.batch(b) for b in np.split(whole, 12)]}, 10)["packing"]
    print(f"packing the batches on the host: {1e3 * median(packing):.1f} ms")


class Peer:
    """PyTorch Geometric in a process of its own, which runs an epoch when asked and says how long the network took."""

    def __init__(self, python):
        command = [python, str(Path(__file__).parent / "_pyg.py"), str(DATA), "--serve"]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.told, self.seconds = self.process.stdout.readline().strip(), []

    def epoch(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        self.seconds.append(float(self.process.stdout.readline()))


ROWS = {
    "random": random,
    "invariance": invariance,
    "folds": table,
    "intervals": intervals,
    "splits": splits,
    "evidence": evidence,
    "speed": speed,
    "settings": settings,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS])
    parser.add_argument("--results", type=Path, default=Path(tempfile.gettempdir()) / "luciole_molecules")
    parser.add_argument("--chemprop", type=Path)
    parser.add_argument("--pyg")
    options = parser.parse_args()
    announce("each program three times")
    data = Molecules(options.results)
    for name in options.rows or [n for n in ROWS if n != "settings"]:
        print(f"\n## {name}", flush=True)
        ROWS[name](data, options)


if __name__ == "__main__":
    main()
