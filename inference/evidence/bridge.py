"""The evidence from draws of a finished run, by bridge sampling."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ...transforms import EvidenceError
from ...transforms.streams import key_words
from ..kernels.layout import Layout
from ..results.record import need_latents
from ..results.results import Readable
from ..run.notices import DivergenceWarning
from .density import Density
from .notices import FewEffectiveDrawsWarning, UnmixedChainsWarning
from .objective import check_model
from .optimal_bridge import optimal_bridge
from .warp import Warp

__all__ = ["BridgeEvidence", "bridge_evidence"]

_PER_DIMENSION = 10  # draws that a covariance needs: its factor is then off by a third
_PER_CHAIN = 8  # of which half go into the estimate; ArviZ's effective sample size needs four
_PROPOSALS = 2  # per draw; with four the standard error is up to a fifth smaller, and its terms are less bounded
_MIN_EFFECTIVE = 100  # what `diagnosis` asks of one chain
_MAX_STDERR = 0.5  # nats; beyond it a relative error is no longer the error of a logarithm
_MAX_RHAT = 1.1  # chains of a few effective draws; smaller differences, which `diagnosis` shows from 1.01, are in the error
_MAX_DIVERGING = 0.001  # of the draws; centred eight schools have 0.01 to 0.05 and are two standard errors off, the others 0.0002


@dataclass(frozen=True, repr=False)
class BridgeEvidence:
    """The log evidence of a model; made by `lc.bridge_evidence`, which has the equations.

    Attributes:
        log_evidence: log p(data), nats. stderr: its standard error, nats.
        num_chains, num_kept: of the run, draws over all chains. num_draws: those that went into the estimate, the second half of each.
        effective_draws: their effective number, that of the term that enters the estimate.
        num_proposals: draws of the normal proposal. iterations: until the estimate moved no more.
        max_rhat: the largest R-hat of the unconstrained coordinates, all draws; NaN for one chain.
        num_diverging: transitions that diverged, of the draws that were kept; 0 for kernels that cannot.
        rounding: nats, the size of one rounding error in a number like the log evidence. The standard error does not know of it.
    """

    log_evidence: float
    stderr: float
    num_chains: int
    num_kept: int
    num_draws: int
    effective_draws: float
    num_proposals: int
    iterations: int
    max_rhat: float
    num_diverging: int
    rounding: float

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that may make the estimate or its error wrong."""
        return tuple(words for _, words in self._problems())

    def _problems(self) -> Iterator[tuple[type[Warning] | None, str]]:
        """The sentences, each with its warning, if it is worth one."""
        if self.max_rhat > _MAX_RHAT:
            yield UnmixedChainsWarning, f"R-hat is {self.max_rhat:.3f}: if the chains have not mixed, the error means nothing"
        if self.effective_draws < _MIN_EFFECTIVE:
            yield FewEffectiveDrawsWarning, f"{self.effective_draws:.0f} effective draws: the standard error is uncertain itself"
        if self.stderr > _MAX_STDERR:
            yield FewEffectiveDrawsWarning, f"a standard error of {self.stderr:.2g} nats: the proposal hardly overlaps with the posterior"
        if self.num_diverging:
            many = self.num_diverging > _MAX_DIVERGING * self.num_kept
            words = f"{self.num_diverging} transitions diverged: a region may be missing from the draws, and so from the evidence"
            yield DivergenceWarning if many else None, words
        if self.rounding > self.stderr:
            yield None, f"one rounding error in the log density is {self.rounding:.2g} nats: run with 64 bits for more digits"
        if self.num_chains == 1:
            yield None, "one chain: nothing says whether it has mixed"

    def __repr__(self) -> str:
        lines = [
            f"log evidence {self.log_evidence:.6g} (standard error {self.stderr:.2g}) nats, by bridge sampling",
            f"{self.num_draws} draws of {self.num_chains} {'chain' if self.num_chains == 1 else 'chains'}, {self.effective_draws:.0f} "
            f"effective; {self.num_proposals} draws of one normal proposal; {self.iterations} iterations",
            "a mode that no chain has visited is missing from it",
            *(f"- {words}" for words in self.problems),
        ]
        return "\n".join(lines)


def bridge_evidence(mcmc: Readable, key: Any = None) -> BridgeEvidence:
    """The log evidence log p(data) of the model of a finished run, by bridge sampling, with its standard error.

        r = E_g[l / (s1 l + s2 r)] / E_p[1 / (s1 l + s2 r)],    l = phi / g,    s1 : s2 = effective draws : proposals

    in unconstrained coordinates, where g is a standard normal and phi is the posterior's density, not normalised, moved to mean zero,
    scaled to unit covariance and made symmetric ("Warp-III"; `warp` has the equation). Mean and covariance are those of the first half of
    each chain's draws, the average over p is that of the second half; r, on both sides, is found by iteration. The standard error is that
    of the two averages, the second with its effective sample size. In the benchmark `bridge` errors are as large as it says.

    It is as good as the draws. What no chain has visited is missing from the evidence, and nothing here can tell; the posterior is
    compared with one normal, so that with well separated modes, or many hundred parameters, the two hardly overlap and the error is large.
    Kernels, thinning, adaptation and the number of chains play no part; the whole data are used, of `FlyMC` too, on the device.

    Args:
        mcmc: a run that has draws: at least 10 per unconstrained coordinate in the first halves, and 8 per chain.
        key: a random key for the proposals; without it always the same ones.

    Returns:
        The estimate: `log_evidence`, `stderr`, `effective_draws`, `problems`; `print` shows them all.

    Raises:
        SamplerError: `mcmc` has not run; `key` is no key.
        EvidenceError: there are too few draws, or they do not move; the prior is improper, or a latent site scaled or masked; nothing is
            observed; the density is infinite somewhere; the iteration does not converge.

    Warns:
        UnmixedChainsWarning: R-hat is above 1.1.
        FewEffectiveDrawsWarning: fewer than 100 effective draws, or a standard error above half a nat.
        DivergenceWarning: more than a thousandth of the transitions diverged.

    Source: Meng & Wong (1996); Meng & Schilling (2002); Frühwirth-Schnatter (2004); Gronau et al. (2017, 2019). `optimal_bridge` and
    `warp` have the titles, and where we deviate.
    """
    if not isinstance(mcmc, Readable):
        raise EvidenceError(f"bridge_evidence: found a {type(mcmc).__name__}, a finished run expected; write lc.bridge_evidence(mcmc).")
    words = np.zeros(2, np.uint32) if key is None else key_words(key)
    samples, program = mcmc.get_samples(group_by_chain=True), mcmc.program
    need_latents("bridge_evidence", program, samples)
    if not program.sites:
        raise EvidenceError("bridge_evidence: the kernel was given a log density and no model, so prior and likelihood are not known.")
    check_model(program, "bridge_evidence")
    wide = any(site.dtype == np.float64 for site in program.latents.values())
    with jax.enable_x64(wide):
        sites = {n: jax.ShapeDtypeStruct(s.unconstrained_shape, s.dtype) for n, s in program.latents.items()}
        estimate = _estimate(Density(program, Layout.of(sites)), samples, mcmc.sample_stats.get("diverging"), words)
    for category, problem in estimate._problems():
        if category is not None:
            warnings.warn(f"bridge_evidence: {problem}.", category, stacklevel=2)
    return estimate


def _estimate(density: Density, samples: dict[str, np.ndarray], diverging: np.ndarray | None, words: np.ndarray) -> BridgeEvidence:
    """The estimate from constrained draws, (chain, draw, *site shape) each."""
    positions = _positions(density, samples)
    half, dim = positions.shape[1] // 2, positions.shape[2]
    later = positions[:, half:]
    warp = Warp.fit(positions[:, :half].reshape(-1, dim), density.layout)
    noise = np.random.default_rng(words).standard_normal((_PROPOSALS * later[..., 0].size, dim))
    ratios = warp.posterior_ratios(density, later.reshape(-1, dim)).reshape(later.shape[:2])
    found = optimal_bridge(ratios, warp.proposal_ratios(density, noise))
    return BridgeEvidence(
        log_evidence=found.log_ratio,
        stderr=found.stderr,
        num_chains=len(positions),
        num_kept=positions[..., 0].size,
        num_draws=ratios.size,
        effective_draws=found.effective_draws,
        num_proposals=len(noise),
        iterations=found.iterations,
        max_rhat=_max_rhat(positions),
        num_diverging=0 if diverging is None else int(diverging.sum()),
        rounding=float(abs(found.log_ratio) * np.finfo(density.layout.dtype).eps),
    )


def _positions(density: Density, samples: dict[str, np.ndarray]) -> np.ndarray:
    """The draws in unconstrained coordinates: (chain, draw, dim), float64."""
    values = {n: samples[n] for n in density.program.latents}
    chains, draws = next(iter(values.values())).shape[:2]
    dim, needed = density.layout.dim, _PER_DIMENSION * density.layout.dim
    if draws < _PER_CHAIN or chains * (draws // 2) < needed:
        enough = max(_PER_CHAIN, 2 * -(-needed // chains))
        raise EvidenceError(
            f"bridge_evidence: there are {draws} draws in each of {chains} chains; with {dim} unconstrained coordinates at least {enough} "
            f"per chain expected, of which the first half fits the proposal. Run again with num_samples={enough} or, better, a few "
            "times that."
        )
    flat = density.unconstrain({n: v.reshape(chains * draws, *v.shape[2:]) for n, v in values.items()})
    if not np.isfinite(flat).all():
        bad = {n: int((~np.isfinite(v)).reshape(len(v), -1).any(axis=1).sum()) for n, v in density.layout.unravel(flat).items()}
        site = density.program.sites[max(bad, key=lambda n: bad[n])]
        raise EvidenceError(
            f"bridge_evidence: {bad[site.name]} of {len(flat)} draws of the site {site.name!r} ({site.line}) are NaN, or lie on the edge "
            f"of their support in {site.dtype}; run with 64 bits, jax.config.update('jax_enable_x64', True), "
            "or write the site in other coordinates."
        )
    return flat.reshape(chains, draws, dim)


def _max_rhat(positions: np.ndarray) -> float:
    """The largest R-hat of (chain, draw, dim), ArviZ's; NaN for one chain."""
    import arviz  # heavy: see `export`
    import xarray

    if len(positions) < 2:
        return float("nan")
    found: Any = arviz.rhat(xarray.Dataset({"u": (("chain", "draw", "coordinate"), positions)}))
    return float(np.asarray(found["u"]).max())
