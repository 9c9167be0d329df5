"""The posterior as a table for people: ArviZ's summary, with the same columns under its two generations."""

from typing import Any

import numpy as np

from ..transforms.errors import SamplerError
from .export import Run, posterior_dataset

__all__ = ["summary_table"]


def summary_table(run: Run, *, prob: float = 0.9, exclude_deterministic: bool = False) -> str:
    """One row for each element of each site; `MCMC.print_summary` has the words for users.

    Raises:
        SamplerError: `prob` is no probability; there are too few draws.
    """
    import arviz  # heavy: see `export`

    if not isinstance(prob, (int, float)) or not 0 < prob < 1:
        raise SamplerError(f"MCMC.print_summary: prob is {prob!r}, a number strictly between 0 and 1 expected; write prob=0.9.")
    if next(iter(run.samples.values())).shape[1] < 4:
        raise SamplerError("MCMC.print_summary: fewer than four draws per chain were kept; ask for more with num_samples=1000.")
    posterior, variables = posterior_dataset(run)
    sites = {} if run.program is None else run.program.sites
    shown = [v for n, v in variables.items() if n in run.samples and not (exclude_deterministic and n in sites and not sites[n].latent)]
    posterior = posterior[shown].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # constants have no R-hat
        if int(arviz.__version__.partition(".")[0]) == 0:
            table: Any = arviz.summary(posterior, hdi_prob=prob, round_to="none")
        else:
            table = arviz.summary(posterior, ci_prob=prob, ci_kind="hdi", round_to="none")
    interval = [c for c in table.columns if c.startswith("hdi")]
    columns = dict(zip(interval, (f"hdi_{100 * prob:g}%_low", f"hdi_{100 * prob:g}%_high"), strict=True))
    table = table[["mean", "sd", *interval, "ess_bulk", "ess_tail", "r_hat"]].rename(columns=columns)
    formats = {**dict.fromkeys(table.columns, _number), "ess_bulk": _whole, "ess_tail": _whole, "r_hat": "{:.3f}".format}
    return table.to_string(formatters=formats)


def _number(value: float) -> str:
    """Three decimals, or four significant digits where those say more."""
    return f"{value:.3f}" if value == 0 or 0.01 <= abs(value) < 1e5 else f"{value:.3e}"


def _whole(value: float) -> str:
    return f"{value:.0f}"
