"""The command line, `python -m luciole`: the main job on a built-in example, from model to ArviZ file and plot."""

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

# Vehtari et al. (2021), "Rank-normalization, folding, and localization", section 4
MAX_R_HAT, MIN_ESS_PER_CHAIN = 1.01, 100


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; `None` reads the process's own."""
    parser = argparse.ArgumentParser(
        prog="python -m luciole",
        description="Sample the eight-schools posterior with NUTS, summarise it, write an ArviZ file and a trace plot.",
    )
    parser.add_argument("--output", type=Path, default=Path("luciole-demo"), metavar="DIR", help="folder for the results (%(default)s)")
    parser.add_argument("--draws", type=int, default=1000, metavar="N", help="draws per chain (%(default)s)")
    parser.add_argument("--warmup", type=int, default=1000, metavar="N", help="warm-up transitions per chain (%(default)s)")
    parser.add_argument("--chains", type=int, default=4, metavar="N", help="number of chains (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the random key (%(default)s)")
    parser.add_argument("--no-progress", action="store_true", help="draw no progress bar")
    return parser.parse_args(arguments)


def save_trace_plot(data, path: Path, var_names: Sequence[str]) -> None:
    """Draw densities and traces of some variables into a file, under either generation of ArviZ.

    Args:
        data: what `mcmc.to_arviz()` returns: InferenceData under ArviZ 0.x, an xarray DataTree under ArviZ 1.x.
        path: file to write; its suffix chooses the format.
        var_names: sites to show.
    """
    import matplotlib

    matplotlib.use("Agg")  # a file is wanted, and the machine may have no screen
    import arviz as az
    import matplotlib.pyplot as plt

    if plot_trace_dist := getattr(az, "plot_trace_dist", None):  # ArviZ 1.x: its `plot_trace` draws no densities
        plot_trace_dist(data, var_names=list(var_names), backend="matplotlib").savefig(path, dpi=120)
    else:
        axes = az.plot_trace(data, var_names=list(var_names), backend_kwargs={"constrained_layout": True})
        axes.ravel()[0].figure.savefig(path, dpi=120)
    plt.close("all")


def verdict(summary, num_divergent: int, num_chains: int) -> tuple[bool, str]:
    """Judge a run by its worst R-hat, its smallest effective sample size and its divergent transitions.

    Args:
        summary: the frame `az.summary` returns, with columns `r_hat`, `ess_bulk` and `ess_tail`.
        num_divergent: divergent transitions among the kept draws.
        num_chains: number of chains.

    Returns:
        Whether nothing speaks against the draws, and one sentence or more that says so with the numbers.
    """
    columns = {name: summary[name].astype(float) for name in ("r_hat", "ess_bulk", "ess_tail")}
    r_hat, ess = columns["r_hat"].max(), min(columns["ess_bulk"].min(), columns["ess_tail"].min())
    needed = MIN_ESS_PER_CHAIN * num_chains
    complaints = []
    if num_chains < 2:
        complaints.append("one chain has nothing to be compared with: use at least four")
    elif not r_hat <= MAX_R_HAT:
        complaints.append(f"R-hat above {MAX_R_HAT} means that the chains disagree: draw more, or look at the trace plot")
    if not ess >= needed:
        complaints.append(f"fewer than {needed} effective draws: means and intervals are rough")
    if num_divergent:
        complaints.append("divergent transitions hint at a region that the sampler cannot enter: raise target_accept_prob")
    numbers = f"largest R-hat {r_hat:.3f}, smallest effective sample size {ess:.0f}, divergent transitions {num_divergent}"
    if complaints:
        return False, f"Not to be trusted as it stands: {numbers}.\n  - " + "\n  - ".join(complaints)
    return True, f"Nothing speaks against these draws: {numbers}."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the example; return 0, whatever the verdict: an honest bad verdict is a result and no failure."""
    options = parse(arguments)
    start = time.perf_counter()
    warnings.filterwarnings("ignore", r"\s*ArviZ is undergoing a major refactor", FutureWarning)  # 0.x at import
    import arviz as az
    import jax
    import numpy as np

    import luciole as lc
    from luciole import example

    print(f"Luciole {lc.__version__}, JAX {jax.__version__} on {jax.default_backend()}, ArviZ {az.__version__}")
    print(
        "Eight schools (Rubin 1981): how far did coaching help in each of eight schools, given eight noisy estimates?\n"
        f"NUTS, {options.chains} chains, {options.warmup} warm-up transitions and {options.draws} draws each.\n",
        flush=True,
    )
    mcmc = lc.MCMC(
        lc.NUTS(example.eight_schools, target_accept_prob=0.95),  # at the usual 0.8 a few transitions diverge where tau is small
        num_warmup=options.warmup,
        num_samples=options.draws,
        num_chains=options.chains,
        progress_bar=not options.no_progress,
    )
    mcmc.run(jax.random.key(options.seed), len(example.SCHOOLS), example.STANDARD_ERROR, y=example.EFFECT)
    data = mcmc.to_arviz()

    summary = az.summary(data, var_names=["mu", "tau", "theta"])
    print("\nThe posterior, in points on the SAT-V scale (mu: mean effect, tau: spread of schools, theta: each school):\n")
    print(summary.to_string())

    options.output.mkdir(parents=True, exist_ok=True)
    file, plot = options.output / "eight_schools.nc", options.output / "eight_schools.png"
    data.to_netcdf(str(file))
    save_trace_plot(data, plot, ["mu", "tau", "theta"])
    print(f"\nDraws:      {file}   (read it with arviz.from_netcdf)")
    print(f"Trace plot: {plot}")

    num_divergent = int(np.asarray(mcmc.sample_stats["diverging"]).sum())
    _, sentence = verdict(summary, num_divergent, options.chains)
    print(f"\n{sentence}\n{time.perf_counter() - start:.1f} s in all.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
