"""What can be seen in a run that should not be trusted: facts, with the numbers, and no guesses at causes.

R-hat, effective sample sizes and BFMI are ArviZ's. Thresholds: R-hat at most 1.01 and 100 effective draws per chain
(Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), "Rank-normalization, folding, and localization", section 4);
BFMI at least 0.3 (Stan's practice; the quantity is from Betancourt (2016), "Diagnosing suboptimal cotangent
disintegrations in Hamiltonian Monte Carlo").
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...transforms.errors import SamplerError
from .export import Run, posterior_dataset, saturated

__all__ = ["Diagnosis", "diagnose"]

_MAX_RHAT = 1.01
_MIN_ESS_PER_CHAIN = 100
_MIN_BFMI = 0.3
_MAX_LISTED = 10


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """The checks of a run; `print` shows the verdict, `ok` says whether there is anything to see.

    Attributes:
        num_chains, num_draws: what was looked at; draws per chain.
        rhat: by site, the largest of its elements. NaN for one chain, fewer than four draws, constants.
        ess: by site, the smallest effective sample size of its elements, bulk or tail, over all chains. NaN as above.
        divergences: by chain, transitions that diverged; None for kernels that cannot.
        saturated: by chain, trajectories that took all the steps that the tree depth allows; None without trees.
        bfmi: by chain, the estimated Bayesian fraction of missing information; None without energies.
        stuck: by latent site, the chains in which an element never moved.
        non_finite: by site, the number of values that are NaN or infinite.
    """

    num_chains: int
    num_draws: int
    rhat: dict[str, float]
    ess: dict[str, float]
    divergences: tuple[int, ...] | None
    saturated: tuple[int, ...] | None
    bfmi: tuple[float, ...] | None
    stuck: dict[str, tuple[int, ...]]
    non_finite: dict[str, int]

    @property
    def ok(self) -> bool:
        """Whether every check that could be made was passed."""
        return not self.problems

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each check that was not passed."""
        return tuple(self._problems())

    def _problems(self) -> Iterator[str]:
        total = self.num_chains * self.num_draws
        if self.non_finite:
            yield f"Values that are NaN or infinite: {_listed(self.non_finite, str)}."
        if self.stuck:
            chains = {n: f"chain {_joined(c)}" for n, c in self.stuck.items()}
            yield f"Elements that never moved: {_listed(chains, str)}."
        if self.divergences is not None and any(self.divergences):
            yield f"{sum(self.divergences)} of {total} transitions diverged (by chain: {_joined(self.divergences)})."
        high = {n: v for n, v in sorted(self.rhat.items(), key=lambda item: -item[1]) if v > _MAX_RHAT}
        if high:
            yield f"R-hat above {_MAX_RHAT}: {_listed(high, '{:.3f}'.format)}."
        least = _MIN_ESS_PER_CHAIN * self.num_chains
        low = {n: v for n, v in sorted(self.ess.items(), key=lambda item: item[1]) if v < least}
        if low:
            words = f"Effective sample size below {least} ({_MIN_ESS_PER_CHAIN} per chain)"
            yield f"{words}: {_listed(low, '{:.0f}'.format)}."
        if self.saturated is not None and any(self.saturated):
            words = f"{sum(self.saturated)} of {total} trajectories took all the steps that max_tree_depth allows"
            yield f"{words} (by chain: {_joined(self.saturated)})."
        if self.bfmi is not None and any(v < _MIN_BFMI for v in self.bfmi):
            yield f"BFMI below {_MIN_BFMI} (by chain: {', '.join(f'{v:.2f}' for v in self.bfmi)})."

    def __str__(self) -> str:
        chains = "1 chain" if self.num_chains == 1 else f"{self.num_chains} chains"
        lines = [f"- {p}" for p in self.problems] or ["- No problem found."]
        finite = [v for v in self.rhat.values() if np.isfinite(v)]
        facts = [f"largest R-hat {max(finite):.3f}" if finite else "no R-hat (it needs two chains of four draws)"]
        sizes = [v for v in self.ess.values() if np.isfinite(v)]
        if sizes:
            facts.append(f"smallest effective sample size {min(sizes):.0f}")
        if self.divergences is not None:
            facts.append(f"divergences {sum(self.divergences)}")
        title = f"Diagnosis of {chains} of {self.num_draws} draws, {len(self.rhat)} sites: {', '.join(facts)}."
        return "\n".join([title, *lines])

    __repr__ = __str__


def diagnose(run: Run) -> Diagnosis:
    """Looks through a run; `MCMC.diagnose` has the words for users.

    Raises:
        SamplerError: there are no draws.
    """
    import arviz  # heavy: see `export`

    num_chains, num_draws = next(iter(run.samples.values())).shape[:2]
    if num_draws == 0:
        raise SamplerError("MCMC.diagnose: there are no draws after warm-up; run again and let it come so far.")
    posterior, variables = posterior_dataset(run)
    posterior = posterior.astype(np.float64)
    stats = run.sample_stats
    rhat, ess, bfmi = {}, {}, None
    with np.errstate(invalid="ignore", divide="ignore"):  # constants have no R-hat
        if num_draws >= 4:
            bulk, tail = (_worst(arviz.ess(posterior, method=method), np.min) for method in ("bulk", "tail"))
            ess = {name: float(np.fmin(bulk[name], tail[name])) for name in bulk}
            bfmi = arviz.bfmi(np.asarray(stats["energy"], np.float64)) if "energy" in stats else None
            rhat = _worst(arviz.rhat(posterior), np.max) if num_chains >= 2 else {}
    constant = {site for site, value in run.samples.items() if (value == value[:1, :1]).all()}
    full, diverging = saturated(stats, run.max_tree_depth), stats.get("diverging")
    return Diagnosis(
        num_chains=num_chains,
        num_draws=num_draws,
        rhat={n: np.nan if n in constant else rhat.get(variables[n], np.nan) for n in run.samples},
        ess={n: np.nan if n in constant else ess.get(variables[n], np.nan) for n in run.samples},
        divergences=None if diverging is None else tuple(int(n) for n in diverging.sum(axis=1)),
        saturated=None if full is None else tuple(int(n) for n in full.sum(axis=1)),
        bfmi=None if bfmi is None else tuple(float(v) for v in np.atleast_1d(bfmi)),
        stuck=_stuck(run),
        non_finite={n: int(bad) for n, value in run.samples.items() if (bad := (~np.isfinite(value)).sum())},
    )


def _stuck(run: Run) -> dict[str, tuple[int, ...]]:
    """Latent sites with an element that has one value in all draws of a chain.

    An element with one value in all chains too is the support's (the zeros of a Cholesky factor), unless the whole
    site is like that.
    """
    found = {}
    deterministic = set() if run.program is None else {n for n in run.samples if not run.program.sites[n].latent}
    if next(iter(run.samples.values())).shape[1] < 2:
        return {}
    for name, value in run.samples.items():
        if name in deterministic or value.size == 0:
            continue
        flat = value.reshape(*value.shape[:2], -1)
        still = (flat == flat[:, :1]).all(axis=1)  # (chain, element)
        everywhere = (flat == flat[:1, :1]).all(axis=(0, 1))
        if not everywhere.all():
            still = still & ~everywhere
        if still.any():
            found[name] = tuple(int(chain) for chain in np.flatnonzero(still.any(axis=1)))
    return found


def _worst(dataset: Any, reduce: Callable[..., Any]) -> dict[str, float]:
    """By variable, `reduce` over the elements for which there is a number."""
    found = {}
    for name, values in dataset.data_vars.items():
        values = np.asarray(values)[np.isfinite(values)]
        found[name] = float(reduce(values)) if values.size else np.nan
    return found


def _listed(values: dict[str, Any], show: Callable[[Any], str]) -> str:
    shown = [f"{name} {show(value)}" for name, value in list(values.items())[:_MAX_LISTED]]
    more = len(values) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _joined(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
