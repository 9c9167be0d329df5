"""Chemprop with its defaults on our splits: run by an environment that has chemprop 2, which is none of Luciole's.

    pip install chemprop
    python benchmarks/_chemprop.py ../shared/data/delaney.csv chemprop.json [--folds 5] [--splits 1]

Each training is one call of `chemprop train`, with nothing set but the data, the split, the seed and the CPU. Predictions of the test rows
are added to the file as they come, so that a run that was stopped goes on.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _splits import NUM_SPLITS, folds, read, split


def train(smiles, y, rows, seed):
    """Predictions of the test rows of one model, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        data, splits, out = (Path(folder) / name for name in ("data.csv", "splits.json", "out"))
        with data.open("w", newline="") as file:
            csv.writer(file).writerows([["smiles", "y"], *zip(smiles, y, strict=True)])
        splits.write_text(json.dumps([{name: r.tolist() for name, r in zip(("train", "val", "test"), rows, strict=True)}]))
        begun = time.perf_counter()
        subprocess.run(
            [Path(sys.executable).parent / "chemprop", "train", "--data-path", data, "--smiles-columns", "smiles", "--target-columns",
             "y", "--task-type", "regression", "--splits-file", splits, "--output-dir", out, "--accelerator", "cpu",
             "--pytorch-seed", str(seed)],
            check=True, capture_output=True,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        with next(out.rglob("test_predictions.csv")).open(newline="") as file:
            found = list(csv.DictReader(file))
    if [r["smiles"] for r in found] != [smiles[i] for i in rows[2]]:
        raise RuntimeError("chemprop returned other test rows than it was given")
    return [float(r["y"]) for r in found], seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--folds", type=int, default=5, help="models per contiguous fold")
    parser.add_argument("--splits", type=int, default=1, help="models per random split")
    options = parser.parse_args()
    smiles, y = read(options.data)
    done = json.loads(options.out.read_text()) if options.out.exists() else {}
    jobs = [(f"fold {f} seed {s}", folds(len(y))[f], s) for s in range(options.folds) for f in range(5)]
    jobs[5:5] = [(f"split {i} seed {s}", split(len(y), i), s) for i in range(NUM_SPLITS) for s in range(options.splits)]
    for name, rows, seed in jobs:
        if name not in done:
            predictions, seconds = train(smiles, y, rows, seed)
            mse = float(np.mean((np.array(predictions) - y[rows[2]]) ** 2))
            done[name] = {"predictions": predictions, "seconds": seconds, "mse": mse}
            options.out.write_text(json.dumps(done))
            print(f"{name}: mse {mse:.3f}, {seconds:.0f} s", flush=True)


if __name__ == "__main__":
    main()
