"""How the 1,128 molecules are split, for us and for peers alike; plain NumPy, so that any environment reads it."""

import csv
import os

import numpy as np

__all__ = ["duplicates", "folds", "read", "split", "told"]

NUM_FOLDS, NUM_SPLITS = 5, 10


def read(path: str | os.PathLike) -> tuple[list[str], np.ndarray]:
    """SMILES and measured log solubility, mol per litre, in the order of the file."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return [r["smiles"] for r in rows], np.array([float(r["measured log solubility in mols per litre"]) for r in rows])


def folds(num_rows: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Train, validation and test rows of five contiguous folds: validation is chunk f, test the next one (Duvenaud et al. 2015)."""
    chunks = np.array_split(np.arange(num_rows), NUM_FOLDS)
    found = []
    for f in range(NUM_FOLDS):
        valid, test = chunks[f], chunks[(f + 1) % NUM_FOLDS]
        found.append((np.setdiff1d(np.arange(num_rows), np.concatenate([valid, test])), valid, test))
    return found


def split(num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Train, validation and test rows, 8:1:1, of a random permutation."""
    order = np.random.default_rng(seed).permutation(num_rows)
    return tuple(np.split(order, [int(0.8 * num_rows), int(0.9 * num_rows)]))


def duplicates(canonical: list[str]) -> tuple[int, int]:
    """How many molecules stand in the file more than once, and how many of those groups lie in more than one chunk of the folds."""
    chunk = np.concatenate([np.full(len(c), f) for f, c in enumerate(np.array_split(np.arange(len(canonical)), NUM_FOLDS))])
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(canonical):
        groups.setdefault(name, []).append(row)
    several = [rows for rows in groups.values() if len(rows) > 1]
    return len(canonical) - len(groups), sum(len(set(chunk[rows])) > 1 for rows in several)


def told(name: str, values, more: str = "") -> None:
    """Prints the mean of some errors, its standard error, and each of them."""
    values = np.array(values)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    print(f"{name:<44} {values.mean():.3f} +- {error:.3f} (standard error; {' '.join(f'{v:.3f}' for v in values)}) {more}", flush=True)
