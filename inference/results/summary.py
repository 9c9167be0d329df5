"""The posterior as a table for people: ArviZ's summary, with the same columns under its two generations."""

from typing import Any

import numpy as np

from ...transforms.errors import SamplerError
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
    hidden = {n for n, site in sites.items() if exclude_deterministic and not site.latent}
    posterior = posterior[[variables[n] for n in run.samples if n not in hidden]].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # constants have no R-hat
        if int(arviz.__version__.partition(".")[0]) == 0:
            table: Any = arviz.summary(posterior, hdi_prob=prob, round_to="none")
        else:
            options: dict[str, Any] = {"ci_prob": prob, "ci_kind": "hdi", "round_to": "none"}
            table = arviz.summary(posterior, **options)
    interval = [c for c in table.columns if c.startswith("hdi")]
    columns = dict(zip(interval, (f"hdi_{100 * prob:g}%_low", f"hdi_{100 * prob:g}%_high"), strict=True))
    table = table[["mean", "sd", *interval, "ess_bulk", "ess_tail", "r_hat"]].rename(columns=columns)
    decimals = _decimals(table["sd"].to_numpy())
    for column in ("mean", "sd", *columns.values()):
        table[column] = [f"{value:.{places}f}" for value, places in zip(table[column], decimals, strict=True)]
    return table.to_string(formatters={"ess_bulk": "{:.0f}".format, "ess_tail": "{:.0f}".format, "r_hat": "{:.3f}".format})


def _decimals(sd: np.ndarray) -> np.ndarray:
    """How many decimals each row needs to show three digits of its standard deviation; three for constants."""
    usable = np.isfinite(sd) & (sd > 0)
    digits = 2 - np.floor(np.log10(sd, where=usable, out=np.full_like(sd, -1)))
    return np.clip(np.where(usable, digits, 3), 0, 12).astype(int)
