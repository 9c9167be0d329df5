"""Chemprop with its defaults on our splits: run by an environment that has chemprop 2, which is none of Luciole's.

    pip install chemprop
    OMP_NUM_THREADS=1 python benchmarks/_chemprop.py ../shared/data/delaney.csv chemprop.json [--folds 5] [--splits 1] [--report]

Each training is one call of `chemprop train`, with nothing set but the data, the split, the seed and the CPU. Predictions of the test rows
are added to the file as they come, so that a run that was stopped goes on; every fold and split has one model before any has a second.
`summary` reads the file, here and in our own benchmark; `--report` prints it and trains nothing.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _splits import NUM_FOLDS, NUM_SPLITS, folds, read, split, told


def train(smiles, y, rows, seed):
    """Predictions of the test rows by the weights of the best validation epoch, and the seconds of the whole call."""
    with tempfile.TemporaryDirectory() as folder:
        data, splits, out = (Path(folder) / name for name in ("data.csv", "splits.json", "out"))
        with data.open("w", newline="") as file:
            csv.writer(file).writerows([["smiles", "y"], *zip(smiles, y, strict=True)])
        splits.write_text(json.dumps([{name: r.tolist() for name, r in zip(("train", "val", "test"), rows, strict=True)}]))
        begun = time.perf_counter()
        done = subprocess.run(
            [Path(sys.executable).parent / "chemprop", "train", "--data-path", data, "--smiles-columns", "smiles", "--target-columns",
             "y", "--task-type", "regression", "--splits-file", splits, "--output-dir", out, "--accelerator", "cpu",
             "--pytorch-seed", str(seed)],
            capture_output=True, text=True,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        if done.returncode:
            raise RuntimeError(f"chemprop train ended with {done.returncode}:\n{done.stderr[-2000:]}")
        with next(out.rglob("test_predictions.csv")).open(newline="") as file:
            found = list(csv.DictReader(file))
    if [r["smiles"] for r in found] != [smiles[i] for i in rows[2]]:
        raise RuntimeError("chemprop returned other test rows than it was given")
    return [float(r["y"]) for r in found], seconds


def jobs(num_rows, per_fold, per_split):
    """(name, rows, seed) of every training."""
    of_folds = [[(f"fold {f} seed {s}", rows, s) for f, rows in enumerate(folds(num_rows))] for s in range(per_fold)]
    of_splits = [(f"split {i} seed {s}", split(num_rows, i), s) for s in range(per_split) for i in range(NUM_SPLITS)]
    return [*(of_folds[0] if of_folds else []), *of_splits, *(job for some in of_folds[1:] for job in some)]


def summary(done, y):
    """Errors on the test rows of what is finished.

    Args:
        done: the content of the file. y: (molecules,) measured, in the order of the file of data.

    Returns:
        fold_mse: a list for each fold, of its single models; fold_ensemble_mse: of the mean of each fold's models (`models` says how
        many, the fewest of a fold); split_rmse: of each split's first model; seconds: of each training. Folds and splits without a
        model are left out, and their number is the length of the lists.
    """

    def of(kind, i, rows):
        test, some = y[rows[2]], [v["predictions"] for k, v in done.items() if k.startswith(f"{kind} {i} ")]
        return test, np.array(some)

    by_fold = [(t, p) for t, p in (of("fold", f, rows) for f, rows in enumerate(folds(len(y)))) if len(p)]
    by_split = [(t, p) for t, p in (of("split", i, split(len(y), i)) for i in range(NUM_SPLITS)) if len(p)]
    return {
        "models": min((len(p) for _, p in by_fold), default=0),
        "fold_mse": [((p - t) ** 2).mean(1).tolist() for t, p in by_fold],
        "fold_ensemble_mse": [float(((p.mean(0) - t) ** 2).mean()) for t, p in by_fold],
        "split_rmse": [float(np.sqrt(((p[0] - t) ** 2).mean())) for t, p in by_split],
        "seconds": [v["seconds"] for v in done.values()],
    }


def report(found):
    print(f"chemprop {metadata.version('chemprop')}, torch {metadata.version('torch')}")
    if found["fold_mse"]:
        told(f"{len(found['fold_mse'])} of {NUM_FOLDS} folds, MSE of single models", [np.mean(m) for m in found["fold_mse"]])
        told(f"{len(found['fold_mse'])} of {NUM_FOLDS} folds, MSE of the mean of {found['models']}", found["fold_ensemble_mse"])
    if found["split_rmse"]:
        told(f"{len(found['split_rmse'])} of {NUM_SPLITS} random splits, RMSE", found["split_rmse"])
    if seconds := found["seconds"]:
        print(
            f"seconds a training: median {np.median(seconds):.0f}, from {min(seconds):.0f} to {max(seconds):.0f}, {len(seconds)} trainings"
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--folds", type=int, default=5, help="models per contiguous fold")
    parser.add_argument("--splits", type=int, default=1, help="models per random split")
    parser.add_argument("--report", action="store_true", help="train nothing")
    options = parser.parse_args()
    smiles, y = read(options.data)
    done = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name, rows, seed in [] if options.report else jobs(len(y), options.folds, options.splits):
        if name not in done:
            predictions, seconds = train(smiles, y, rows, seed)
            mse = float(np.mean((np.array(predictions) - y[rows[2]]) ** 2))
            done[name] = {"predictions": predictions, "seconds": seconds, "mse": mse, "chemprop": metadata.version("chemprop")}
            written = options.out.with_name(options.out.name + ".part")
            written.write_text(json.dumps(done))
            written.replace(options.out)  # at once: a run that is stopped here loses nothing
            print(f"{name}: mse {mse:.3f}, {seconds:.0f} s", flush=True)
    report(summary(done, y))


if __name__ == "__main__":
    main()
