"""The models of NumPyro's examples whose discrete latents are summed out, with data, for both libraries.

The files of the examples are imported as they are, from a folder that the user names: annotation.py, capture_recapture.py, hmm_enum.py
and toy_mixture_model_discrete_enumeration.py of NumPyro 0.21 or later. Their data are those that the examples load; where these can be
neither found nor downloaded, data of the same shapes are drawn from the models' own story with a fixed seed, and that is said.
"""

import functools
import importlib.util
import math
import os
import sys
import urllib.error
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

os.environ.setdefault("MPLBACKEND", "Agg")  # an example imports matplotlib
FILES = ("annotation", "capture_recapture", "hmm_enum", "toy_mixture_model_discrete_enumeration")
SEQUENCES, STEPS = 10, 40  # of the chorales: the first ones, cut; one of them is shorter
# States, by model: 16 as in the example, and 4 in two of them. With 16 model 3 picks from an axis of two by a site of four values (JAX then
# takes the last element, and drops its gradient), and model 6, which looks two steps back, takes NumPyro a second per gradient.
HIDDEN = {1: 16, 3: 4, 4: 16, 6: 4}
# Draws of the annotation models whose chains mix slowly, on both sides: item difficulty, random effects.
SLOW = {"id": 10_000, "lre": 4000}
# Of sequences that are drawn: states of each model, in models 3 and 4 two chains of two.
DRAWN = {1: 2, 3: 4, 4: 4, 6: 2}


@dataclass(frozen=True)
class Case:
    """A model and its data.

    Attributes:
        args: the model's arguments.
        plates: how many batch dimensions are taken by plates (NumPyro is told; it would find out by a run of the model).
        masked: sum of log K over masked elements of discrete sites, which NumPyro adds and Luciole, to which they are absent, does not.
        arguments: whether NumPyro's side can have its data as arguments of a compiled function. The annotation models read the number
            of classes off their data, which then have to be constants.
        labelled: whether the values of a site have names of their own, or could change places with each other.
        draws: of each chain, where it is sampled, after a tenth as many of warm-up, and no fewer than 500.
        depth: of NUTS's trees, at most. What nothing reads in hmm_enum 3 is drawn from Beta(0.1, 0.9), whose tails fill trees of any depth.
        start: values of the latent sites where all chains of both sides begin, or a mode that is looked for (None).
    """

    name: str
    model: Callable[..., Any]
    args: tuple[Any, ...]
    plates: int
    masked: float = 0.0
    arguments: bool = True
    labelled: bool = True
    draws: int = 1000
    depth: int = 10
    start: dict[str, np.ndarray] | None = None


def cases(folder, data=None, drawn=False):
    """By name. Leaves with a message where a file of the examples is missing.

    Args:
        folder: that of the examples' files.
        data: folder with dipper_vole.zip and jsb_chorales.pickle, if they lie somewhere.
        drawn: whether sequences that are drawn from few states take the chorales' place, so that chains mix.
    """
    if folder is None or not all((Path(folder) / f"{name}.py").is_file() for name in FILES):
        sys.exit(f"Give the folder that holds NumPyro's examples {', '.join(FILES)} (.py): `--examples FOLDER`.")
    annotation, capture, hmm, toy = (load(Path(folder) / f"{name}.py") for name in FILES)
    found = [
        *annotations(annotation),
        *captures(capture, data),
        *(drawn_sequences(hmm) if drawn else chorales(hmm, data)),
        toy_mixture(toy),
    ]
    return {case.name: case for case in found}


def load(path):
    """An example as a module: what stands under `if __name__ == "__main__"` is not run."""
    spec = importlib.util.spec_from_file_location(f"numpyro_example_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def annotations(example):
    positions, given = example.get_data()
    for name, model in example.NAME_TO_MODEL.items():
        args = (given,) if model in (example.multinomial, example.item_difficulty) else (positions, given)
        yield Case(f"annotation {name}", model, args, plates=2, arguments=False, labelled=False, draws=SLOW.get(name, 1000))


def captures(example, folder):
    history, sex = map(np.asarray, dataset(example.DIPPER_VOLE, "dipper", folder) or drawn_captures())
    first = np.cumsum(history, 1)[:, :-1] > 0  # whether an animal has been met before each occasion
    for number in (1, 3, 4, 5):
        model = example.models[str(number)]
        yield Case(f"capture_recapture {number}", model, (history, sex), plates=1, masked=math.log(2) * int((~first).sum()))


def chorales(example, folder, number=SEQUENCES, steps=STEPS):
    loaded = dataset(example.JSB_CHORALES, "train", folder) or drawn_chorales()
    lengths, sequences = (np.asarray(a)[:number] for a in loaded)
    sequences = sequences[:, :steps, (sequences == 1).any((0, 1))]
    lengths = lengths.clip(0, steps)
    missing = int((steps - lengths).sum())
    for model, hidden in HIDDEN.items():
        masked = missing * math.log(hidden)  # where there are two chains, of both together
        yield chorale(example, model, hidden, sequences, lengths, masked=masked, labelled=False)


def chorale(example, number, hidden, sequences, lengths, **about):
    model = functools.partial(example.models[str(number)], args=SimpleNamespace(hidden_dim=hidden))
    return Case(f"hmm_enum {number}", model, (sequences, lengths), plates=2, **about)


def drawn_sequences(example, number=20, steps=30, notes=12):
    """Sequences drawn with few states, each of which sounds notes of its own: a posterior with one mode, up to names.

    Chains begin at the truth. The posteriors given the chorales have many modes: chains of neither side go from one to another, so that
    they cannot be compared; and notes that never sound are tails of length ten.
    """
    rng = np.random.default_rng(0)
    lengths = rng.integers(steps // 2, steps + 1, number)
    for model, states in DRAWN.items():
        truth = {name: np.asarray(value, np.float32) for name, value in drawn_parameters(model, states, notes).items()}
        sounding = np.stack([drawn_sequence(rng, model, truth, steps) for _ in range(number)])
        sequences = (sounding & (np.arange(steps)[:, None] < lengths[:, None, None])).astype(np.int32)
        yield chorale(example, model, states, sequences, lengths, start=truth, depth=6 if model == 3 else 10)


def drawn_parameters(model, states, notes):
    """By site of a model. A state of `states` sounds its share of the notes with probability 0.8, and the others with 0.15."""
    own = np.where(np.arange(notes) % states == np.arange(states)[:, None], 0.8, 0.15)
    stay, leave = np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([[0.6, 0.4], [0.15, 0.85]])
    if model == 3:  # a site of as many rows as states, of which two are read
        emission = np.concatenate([own.reshape(2, 2, notes), np.full((2, 2, notes), 0.1)])
        return {"probs_w": stay, "probs_x": leave, "probs_y": emission}
    if model == 4:
        return {"probs_w": stay, "probs_x": np.stack([stay, leave]), "probs_y": own.reshape(2, 2, notes)}
    return {"probs_x": stay if model == 1 else np.stack([stay, leave]), "probs_y": own}


def drawn_sequence(rng, model, truth, steps):
    """Which notes sound, (steps, notes)."""
    w = x = before = 0
    found = []
    for _ in range(steps):
        if model in (3, 4):
            w = int(rng.random() < truth["probs_w"][w, 1])
            chances = truth["probs_x"][x] if model == 3 else truth["probs_x"][w, x]
            x = int(rng.random() < chances[1])
            sounds = truth["probs_y"][w, x]
        else:
            chances = truth["probs_x"][x] if model == 1 else truth["probs_x"][before, x]
            before, x = x, int(rng.random() < chances[1])
            sounds = truth["probs_y"][x]
        found.append(rng.random(sounds.shape) < sounds)
    return np.stack(found)


def toy_mixture(example, num_obs=1000):
    from numpyro import handlers

    prior, _, data = handlers.seed(example.generate_data, jax.random.key(0))(num_obs)
    observed = {name: np.asarray(data[name]) for name in ("A", "C")}
    prior = {name: np.asarray(value) for name, value in prior.items()}
    model = functools.partial(toy_model, example.model, num_obs)
    return Case("toy_mixture", model, (prior, observed), plates=1, labelled=False)


def toy_model(model, num_obs, prior, observed):
    return model(prior, observed, num_obs)


def dataset(which, split, folder):
    """What NumPyro's loader gives, or None where there is neither a file nor a network."""
    from numpyro.examples import datasets

    if folder is not None:
        datasets.DATA_DIR = str(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a pickle of an older NumPy
            return datasets.load_dataset(which, split=split, shuffle=False)[1]()
    except (urllib.error.URLError, OSError):
        print(f"{which.name} is neither here nor can it be downloaded: data of the same shapes, drawn with a fixed seed, take its place")
        return None


def drawn_captures(animals=294, occasions=7):
    """Histories of animals that are marked at their first capture, survive with 0.56 and are seen again with 0.9."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, occasions - 1, animals)
    alive = np.cumprod(np.where(np.arange(occasions) > first[:, None], rng.random((animals, occasions)) < 0.56, True), 1)
    seen = alive & (rng.random((animals, occasions)) < 0.9) & (np.arange(occasions) > first[:, None])
    return (seen | (np.arange(occasions) == first[:, None])).astype(int), rng.integers(0, 2, animals)


def drawn_chorales(sequences=229, steps=129, notes=51):
    """Four notes sound at each step; which ones is chosen by a slow chain of 16 states."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(24, steps + 1, sequences)
    lengths[0] = steps
    chords = np.stack([rng.permutation(notes) < 4 for _ in range(16)])
    states = np.stack([rng.integers(0, 16, (sequences, 1 + steps // 8)) for _ in range(8)], -1).reshape(sequences, -1)[:, :steps]
    sounding = chords[states] & (np.arange(steps)[:, None] < lengths[:, None, None])
    return lengths, sounding.astype(np.int32)


def theirs(case):
    """NumPyro's log density: a function of (the model's arguments, position)."""
    from numpyro import handlers
    from numpyro.contrib.funsor import config_enumerate, enum
    from numpyro.infer.util import potential_energy

    enumerated = enum(config_enumerate(handlers.seed(case.model, 0)), -case.plates - 1)
    return lambda args, u: -potential_energy(enumerated, args, {}, u, enum=True)


def theirs_compilable(case):
    """(jitted value and gradient of (data, position), data): data are arguments where the model allows it, else constants."""
    log_density = theirs(case)
    if case.arguments:
        return jax.jit(jax.value_and_grad(log_density, argnums=1)), jax.tree.map(jnp.asarray, case.args)
    return jax.jit(jax.value_and_grad(lambda _, u: log_density(case.args, u), argnums=1)), ()


def ours_compilable(case):
    """(jitted value and gradient of (density, position), density)."""
    import luciole as lc
    from luciole import transforms as lt

    density = lc.log_density(case.model, *case.args)
    return jax.jit(lambda density, u: lt.value_and_grad(density)(u)), density


def ours_folded(case):
    """As `ours_compilable`, with the data as constants: what stands beside NumPyro's side of a model that takes no arguments."""
    from luciole import transforms as lt

    _, density = ours_compilable(case)
    return jax.jit(lambda _, u: lt.value_and_grad(density)(u)), ()
