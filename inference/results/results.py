"""The results of a run, to be read: by `MCMC`, whose last run they are, and by `Results`, which stay as they are."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ppl import ModelProgram
from ...transforms.errors import NoAttributeError, SamplerError
from ..kernels.records import ChainState
from .diagnosis import Diagnosis, diagnose
from .export import Run, to_arviz
from .extra_fields import extra_fields_of
from .record import Record, need_latents
from .summary import summary_table

__all__ = ["Readable", "Results"]


class Readable:
    """All that is read of a finished run.

    Arrays that are handed out cannot be written to, so that nothing changes a run after it has ended; `array.copy()` can.

    Attributes:
        sample_stats: by name, (chain, draw): `n_steps`, `lp` (nats, unconstrained log density); NUTS and HMC: `diverging`,
            `acceptance_rate`, `energy` (nats), `step_size`, NUTS `tree_depth`; Slice: `nstep_out`, `nstep_in`; EllipticalSlice: `theta`.
        warmup_samples, warmup_stats: the same for the warm-up; None unless `keep_warmup`.
        step_size: (chain,). As adapted.
        inverse_mass_matrix: (chain, dim) or (chain, dim, dim). As adapted.
        state: the chains after their last transition.
        program: the traced model of the run.
        cost: `setup_seconds` (of kernels that look at the data first; 0 for others), `compile_seconds` (tracing included),
            `sampling_seconds`, `gradient_evaluations` (that chains needed, the search for starts included), `gradient_slots`
            (computed, chains that wait included), `log_density_evaluations` and `log_density_slots` (the same for log densities
            without gradient; a kernel has either these or those, the others are 0), `utilisation` (the ratio of evaluations and slots),
            `likelihood_queries` (rows of observed sites evaluated, search for starts and warm-up included),
            `likelihood_queries_setup` and `likelihood_queries_warmup` (those two apart), `rows_compressed` (how many rows fewer are
            evaluated than are observed). What a kernel did before it began again with larger buffers counts as set-up.
    """

    @property
    def _record(self) -> Record:
        """What the run has left."""
        raise NotImplementedError

    def get_samples(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """The kept draws, constrained, and the deterministic values.

        Args:
            group_by_chain: keep chain and draw apart.

        Returns:
            By site, shape (chain * draw, ...), or (chain, draw, ...).
        """
        samples = self._record.samples(self._record.sampling)
        if group_by_chain:
            return samples
        flat = {name: value.reshape(math.prod(value.shape[:2]), *value.shape[2:]) for name, value in samples.items()}
        for value in flat.values():
            value.flags.writeable = False
        return flat

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """The statistics that `run(..., extra_fields=...)` named, under these names, and divergences, if there can be any.

        Args:
            group_by_chain: keep chain and draw apart.

        Returns:
            By name, (chain * draw,), or (chain, draw). `sample_stats` has all, under ArviZ's names.
        """
        fields = extra_fields_of(self._record.extra_fields, self.sample_stats)
        return fields if group_by_chain else {name: value.reshape(-1) for name, value in fields.items()}

    @property
    def sample_stats(self) -> dict[str, np.ndarray]:
        return self._record.stats(self._record.sampling)

    @property
    def warmup_samples(self) -> dict[str, np.ndarray] | None:
        return self._record.samples(self._record.warming) if self._record.keep_warmup else None

    @property
    def warmup_stats(self) -> dict[str, np.ndarray] | None:
        return self._record.stats(self._record.warming) if self._record.keep_warmup else None

    @property
    def program(self) -> ModelProgram:
        return self._record.program

    @property
    def state(self) -> ChainState:
        if not self._record.started:
            raise SamplerError("MCMC: the run was interrupted before its chains had started; call mcmc.run again.")
        return self._record.state

    @property
    def step_size(self) -> np.ndarray:
        return np.asarray(self.state.step_size)

    @property
    def inverse_mass_matrix(self) -> np.ndarray:
        return np.asarray(self.state.metric.inverse_mass)

    @property
    def cost(self) -> dict[str, float]:
        return dict(self._record.cost)

    def to_arviz(
        self,
        *,
        log_likelihood: bool | None = None,
        prior: Mapping[str, Any] | None = None,
        posterior_predictive: Mapping[str, Any] | None = None,
        discrete: Mapping[str, Any] | None = None,
    ) -> Any:
        """The run for ArviZ: an `InferenceData` under ArviZ 0.x, an `xarray.DataTree` under ArviZ 1.x.

        Groups: `posterior` (latent and deterministic sites), `sample_stats`, `log_likelihood` (nats, element by
        element, without event axes and without what is masked), `observed_data`, `constant_data` (the model's array arguments that are not
        observed values, by parameter name), and with `keep_warmup` `warmup_posterior` and `warmup_sample_stats`.
        Dimensions and coordinates come from the plates. What has no elements is left out: ArviZ's plots cannot take it.
        A "/" in a name becomes "." (netCDF keeps it for groups).

        Args:
            log_likelihood: whether to compute that group, which is as large as draws times observations. None: if there are draws of all
                latent sites; `MCMC(collect=...)` may have left some out. Discrete ones that are summed out need none (`lc.log_likelihood`).
            prior: draws from `lc.prior_predictive`; they fill the groups `prior` and `prior_predictive`.
            posterior_predictive: draws from `lc.posterior_predictive` with this run's samples, flat or by chain. The group keeps the
                observed sites; deterministic ones are in `posterior`.
            discrete: states of discrete sites from `lc.infer_discrete(mcmc, key)`; they join the group `posterior`.

        Raises:
            SamplerError: there are no draws; `prior`, `posterior_predictive` or `discrete` do not belong to this model; a log likelihood
                is asked for and `collect` left out what it needs.
        """
        if log_likelihood:
            need_latents("MCMC.to_arviz(log_likelihood=True)", self.program, self._record.draws.names)
        program = self._record.program
        complete = all(name in self._record.draws.names for name in program.latents)
        return to_arviz(
            self._run,
            log_likelihood=complete if log_likelihood is None else log_likelihood,
            prior=prior,
            posterior_predictive=posterior_predictive,
            discrete=discrete,
        )

    def print_summary(self, prob: float = 0.9, exclude_deterministic: bool = False) -> None:
        """Prints a table: mean, sd, interval, effective sample sizes and R-hat of every element of every site.

        Args:
            prob: mass of the interval, the shortest that has it.
            exclude_deterministic: leave deterministic sites out.

        Raises:
            SamplerError: there are too few draws.
        """
        run = self._run
        print(summary_table(run, prob=prob, exclude_deterministic=exclude_deterministic))
        if "diverging" in run.sample_stats:
            print(f"\nDivergences: {int(run.sample_stats['diverging'].sum())}")
        if self._record.pooled:
            print("Adaptation: pooled, one step size and metric for all chains")

    def diagnose(self) -> Diagnosis:
        """Checks the run: R-hat, effective sample size, divergences, tree depth, BFMI, stuck and non-finite values.

        Returns:
            A record of the values; `print` shows the verdict, `.ok` says whether every check was passed.

        Raises:
            SamplerError: there are no draws.
        """
        return diagnose(self._run)

    @property
    def _run(self) -> Run:
        """What export reads."""
        record = self._record
        return Run(
            samples=self.get_samples(group_by_chain=True),
            sample_stats=self.sample_stats,
            warmup_samples=self.warmup_samples,
            warmup_stats=self.warmup_stats,
            program=record.program if record.program.sites else None,
            max_tree_depth=record.max_tree_depth,
            settings=record.settings,
        )


class Results(Readable):
    """A finished run, as it was when `mcmc.results` was asked for; what the `MCMC` does next changes nothing of it."""

    def __init__(self, record: Record):
        self.__dict__["_kept"] = record

    @property
    def _record(self) -> Record:
        return self.__dict__["_kept"]

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            raise NoAttributeError(f"Results: {name!r} cannot be set; a finished run does not change.")

    def __repr__(self) -> str:
        record = self._record
        chains = len(np.atleast_1d(record.state.log_density))
        return f"<Results of {record.settings['kernel']}: {chains} chains of {record.num_draws} draws, {len(record.draws.names)} sites>"
