"""A run over eight devices, as a script of one process or of several: what is split lies in both of two."""

import signal
import sys
import warnings

import jax
import numpy as np

import luciole as lc
from luciole import dist
from luciole import sharding as ls
from luciole.inference.run import host, running

MESH = {"s": 2, "c": 2, "d": 2}
DATA = np.array([0, 1, 2, 3, 3, 1], np.int32), np.linspace(-1.0, 2.0, 6)


def model(group, y=None):
    mu = lc.sample("mu", dist.Normal(0, 1))
    with lc.plate("group", 4):
        alpha = lc.sample("alpha", dist.Normal(mu, 1))
    with lc.plate("row", 6):
        lc.sample("y", dist.Normal(alpha[group], 1.0), obs=y)


def where(mesh=MESH):
    names = {"c": "chains", "d": "plate:row", "s": "sites.alpha"}
    return {"mesh": mesh, "tactics": [ls.ManualPartition({names[axis]: 0}, axis=axis) for axis in mesh]}


def sampled(store=None, **options):
    """A short run with a warm-up that is kept."""
    settings = {"num_warmup": 3, "num_samples": 6, "num_chains": 4, "keep_warmup": True, "progress_bar": False} | options
    return lc.MCMC(lc.HMC(model, num_steps=3), store=store, **settings).run(jax.random.key(0), *DATA)


def everything(mcmc):
    """Draws, statistics and the last positions, by name."""
    found = {f"draws {name}": value for name, value in mcmc.get_samples(True).items()}
    found |= {f"warm-up {name}": value for name, value in mcmc.warmup_samples.items()}
    found |= {f"statistic {name}": value for name, value in mcmc.sample_stats.items()}
    return found | {"positions": mcmc.state.position, "metric": mcmc.state.metric.inverse_mass}


def main(store, out):
    """Runs with a store; the last process is interrupted in the middle, upon which all stop and go on."""
    jax.config.update("jax_enable_x64", True)
    warnings.simplefilter("ignore", lc.InterruptWarning)
    running.drive = lambda compiled, spec, *others: host.drive(compiled, spec._replace(capacity=2), *others)
    interrupted = []

    def interrupt(report):
        if report.phase == "sampling" and jax.process_index() == jax.process_count() - 1 and not interrupted:
            interrupted.append(report)
            signal.raise_signal(signal.SIGINT)

    mcmc = sampled(store, progress_bar=interrupt, **where())
    stopped = mcmc.get_samples(True)["mu"].shape[1]
    assert stopped < 6, "nobody was interrupted"
    np.savez(f"{out}-{jax.process_index()}.npz", stopped=stopped, **everything(mcmc.extend(0)))


if __name__ == "__main__":
    main(*sys.argv[1:])
