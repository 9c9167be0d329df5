"""Markov chain Monte Carlo: what a user runs, and what is left of a run."""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np

from ...ppl import InitStrategy, ModelProgram, log_density
from ...ppl.initial import as_strategy
from ...transforms.calls import answering, check_arguments, verb
from ...transforms.errors import NoAttributeError, SamplerError
from ...transforms.settings import flag, whole
from ...transforms.streams import key_words
from ..kernels.adaptation import warmup_schedule
from ..kernels.kernel import Fitted, Kernel
from ..kernels.pooling import pooled
from ..kernels.records import ChainState, Plan
from ..kernels.starts import init_error, proposed_starts, start_positions
from ..kernels.target import Target, trace_target
from ..results.diagnosis import Diagnosis, diagnose
from ..results.export import Run, to_arviz
from ..results.summary import summary_table
from .batching import capacity_of
from .compilation import compiled_sampler
from .finished import Finished, cost_of
from .host import Outcome, drive
from .notices import DivergenceWarning, InterruptWarning
from .progress import Progress
from .words import ATTRIBUTES, MCMC_WORDS, RUN, extra_fields_of, known_fields, known_parameter

__all__ = ["MCMC"]

_log = logging.getLogger("luciole")


@answering("MCMC", MCMC_WORDS)
class MCMC:
    """Runs chains of a kernel and keeps their draws.

    Args:
        kernel: `NUTS(model)`, `HMC(model, ...)`, `Slice(model)`, `EllipticalSlice(model)`, `FlyMC(model)`.
        num_warmup: transitions per chain that adapt what the kernel adapts; 0 or more.
        num_samples: transitions per chain after warm-up; `num_samples // thinning` of them are kept.
        num_chains: number of chains; all run in one program on one device.
        thinning: keep every `thinning`-th draw.
        progress_bar: whether to show one.
        keep_warmup: whether to keep the draws of the warm-up as well.
        compact: whether the last quarter of the chains goes on in a smaller batch, again and again. It compiles a program for each of
            these sizes, and pays where a few chains take very much longer than the others; draws agree up to rounding.
        pool_adaptation: whether the chains adapt together. At the end of each window of the warm-up the metric becomes that of the
            positions of all chains, the step size the geometric mean of theirs, and all sample with the same two. Windows begin sooner
            and shorter, the more chains the shorter, so that a short warm-up is enough for many. At each of these ends all wait for the
            slowest: where scales are alike, and there is little to learn, that costs more than it saves. In warm-up the chains are then
            not independent: R-hat says nothing there, and a chain that is stuck spoils the adaptation of all. After warm-up they share
            the step size and the metric, and nothing else.

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
            `likelihood_queries_setup` and `likelihood_queries_warmup` (those two apart). What a kernel did before it began again with
            larger buffers counts as set-up.

    Raises:
        SamplerError: a setting makes no sense; names the argument.
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        num_warmup: int = 1000,
        num_samples: int = 1000,
        num_chains: int = 4,
        thinning: int = 1,
        progress_bar: bool = True,
        keep_warmup: bool = False,
        compact: bool = False,
        pool_adaptation: bool = False,
    ):
        _check_kernel(kernel)
        self.kernel = kernel
        self.num_warmup = whole("MCMC", "num_warmup", num_warmup, 0, write="write num_warmup=1000")
        self.num_samples = whole("MCMC", "num_samples", num_samples, 1, write="write num_samples=1000")
        self.num_chains = whole("MCMC", "num_chains", num_chains, 1, write="write num_chains=4")
        self.thinning = whole("MCMC", "thinning", thinning, 1, write="write thinning=1")
        if self.thinning > self.num_samples:
            raise SamplerError(
                f"MCMC: thinning is {thinning} and num_samples {num_samples}: no draw would be kept; "
                "write thinning=1, or a larger num_samples."
            )
        self.progress_bar = flag("MCMC", "progress_bar", progress_bar)
        self.keep_warmup = flag("MCMC", "keep_warmup", keep_warmup)
        self.compact = flag("MCMC", "compact", compact)
        self.pool_adaptation = flag("MCMC", "pool_adaptation", pool_adaptation)
        self._finished: Finished | None = None

    @verb("mcmc.run(jax.random.key(0), *args, **kwargs), with the model's arguments")
    def run(
        self,
        key: Any,
        /,
        *args: Any,
        init_params: Any = None,
        start: "MCMC | ChainState | None" = None,
        extra_fields: Sequence[str] = (),
        **kwargs: Any,
    ) -> Self:
        """Runs the chains from scratch and keeps their draws; returns itself.

        The three keywords below are `run`'s own, all other arguments the model's. A parameter of the model that is called like one of the
        three gets its value by position.

        Args:
            key: a random key; the run is a function of it and of the data.
            *args, **kwargs: the model's arguments: the data.
            init_params: where chains start: *unconstrained* values by site, as NumPyro's, one for all chains or with a leading chain axis;
                or an array of them in program order, (dim,) or (chain, dim), such as `mcmc.state.position`; or
                `init_to_value({...})` for *constrained* values, such as those of `get_samples`; or what `start` takes. Without them the
                kernel's `init_strategy` decides.
            start: an earlier run with as many chains, or its `state`: chains start at its last positions.
            extra_fields: names of statistics that `get_extra_fields` shall return, NumPyro's or ours; all are kept anyway.

        Raises:
            SamplerError: the key, `init_params`, `start` or `extra_fields` make no sense; or `run` was called inside a function that JAX
                transforms.
            KeywordError: the model has no such argument, or lacks one.
            InitError: a chain found no start where log density and, if the kernel uses it, gradient are finite; or a value of
                `init_to_value` lies outside its support.
        """
        words = key_words(key)
        extra = known_fields(extra_fields, self.kernel.model)
        init_params = _where_to_start(start, init_params, self.kernel.model)
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            _log.warning("MCMC.run compiles its chains under jax.disable_jit too; to step through a model call lc.log_density(model, ...).")
        with jax.disable_jit(False):
            return self._run_compiled(words, args, kwargs, init_params, extra)

    def _run_compiled(self, words: np.ndarray, args: tuple, kwargs: dict[str, Any], init_params: Any, extra: tuple[str, ...]) -> Self:
        """See `run`."""
        with Progress(self.num_warmup + self.num_samples, self.num_chains, self.progress_bar) as progress:
            begun = perf_counter()
            density = _density_of(self.kernel.model, args, kwargs)
            fit = self.kernel.fit(density, words, self.num_chains)
            fitting = perf_counter() if fit.queries is not None else begun
            evaluated = fit.starts is None
            strategy = as_strategy(init_params if isinstance(init_params, InitStrategy) else self.kernel.init_strategy)
            target = trace_target(density, strategy, self.num_chains, fit.transition.uses_gradient, evaluated)
            init_params = self._given_starts(init_params, density, words, target, fit)
            with jax.enable_x64(True) if fit.wide else nullcontext():
                while True:
                    outcome, driving = self._drive(density, fit, target, words, init_params, progress)
                    if outcome.again is None or outcome.interrupted:
                        break
                    fit = fit._replace(transition=outcome.again, queries=(fit.queries or 0) + outcome.counts.queries)
                    fitting = perf_counter()
        self._finished = Finished(
            outcome=outcome,
            names=target.names,
            layout=target.layout,
            program=density.program,
            setup_seconds=fitting - begun,
            compile_seconds=driving - fitting,
            sampling_seconds=outcome.seconds,
            uses_gradient=fit.transition.uses_gradient,
            in_one=fit.in_one,
            queries=fit.queries,
            extra_fields=extra,
        )
        self._warn()
        return self

    def get_samples(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """The kept draws, constrained, and the deterministic values.

        Args:
            group_by_chain: keep chain and draw apart.

        Returns:
            By site, shape (chain * draw, ...), or (chain, draw, ...).
        """
        samples = self._values(self._sampling)
        if group_by_chain:
            return samples
        return {name: value.reshape(math.prod(value.shape[:2]), *value.shape[2:]) for name, value in samples.items()}

    def get_extra_fields(self, group_by_chain: bool = False) -> dict[str, np.ndarray]:
        """The statistics that `run(..., extra_fields=...)` named, under these names, and divergences, if there can be any.

        Args:
            group_by_chain: keep chain and draw apart.

        Returns:
            By name, (chain * draw,), or (chain, draw). `sample_stats` has all, under ArviZ's names.
        """
        fields = extra_fields_of(self._done.extra_fields, self.sample_stats)
        return fields if group_by_chain else {name: value.reshape(-1) for name, value in fields.items()}

    @property
    def sample_stats(self) -> dict[str, np.ndarray]:
        return {name: stat[:, self._sampling] for name, stat in self._done.outcome.stats.items()}

    @property
    def warmup_samples(self) -> dict[str, np.ndarray] | None:
        return self._values(self._warming) if self.keep_warmup else None

    @property
    def warmup_stats(self) -> dict[str, np.ndarray] | None:
        if not self.keep_warmup:
            return None
        return {name: stat[:, self._warming] for name, stat in self._done.outcome.stats.items()}

    @property
    def program(self) -> ModelProgram:
        return self._done.program

    @property
    def state(self) -> ChainState:
        return self._started.outcome.state

    @property
    def step_size(self) -> np.ndarray:
        return np.asarray(self.state.step_size)

    @property
    def inverse_mass_matrix(self) -> np.ndarray:
        return np.asarray(self.state.metric.inverse_mass)

    @property
    def cost(self) -> dict[str, float]:
        return cost_of(self._done)

    def to_arviz(
        self,
        *,
        log_likelihood: bool = True,
        prior: Mapping[str, Any] | None = None,
        posterior_predictive: Mapping[str, Any] | None = None,
    ) -> Any:
        """The run for ArviZ: an `InferenceData` under ArviZ 0.x, an `xarray.DataTree` under ArviZ 1.x.

        Groups: `posterior` (latent and deterministic sites), `sample_stats`, `log_likelihood` (nats, element by
        element, without event axes and without what is masked), `observed_data`, `constant_data` (the model's array arguments that are not
        observed values, by parameter name), and with `keep_warmup` `warmup_posterior` and `warmup_sample_stats`.
        Dimensions and coordinates come from the plates. What has no elements is left out: ArviZ's plots cannot take it.
        A "/" in a name becomes "." (netCDF keeps it for groups).

        Args:
            log_likelihood: whether to compute that group, which is as large as draws times observations.
            prior: draws from `lc.prior_predictive`; they fill the groups `prior` and `prior_predictive`.
            posterior_predictive: draws from `lc.posterior_predictive` with this run's samples, flat or by chain. The group keeps the
                observed sites; deterministic ones are in `posterior`.

        Raises:
            SamplerError: there are no draws; `prior` or `posterior_predictive` do not belong to this model.
        """
        return to_arviz(self._run, log_likelihood=log_likelihood, prior=prior, posterior_predictive=posterior_predictive)

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
        if self.pool_adaptation:
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
        """What leaves the house."""
        kernel, run = self.kernel, self._done
        options = {f.name: getattr(kernel, f.name) for f in fields(kernel)} if is_dataclass(kernel) else {}
        return Run(
            samples=self.get_samples(group_by_chain=True),
            sample_stats=self.sample_stats,
            warmup_samples=self.warmup_samples,
            warmup_stats=self.warmup_stats,
            program=run.program if run.program.sites else None,
            max_tree_depth=getattr(kernel, "max_tree_depth", None),
            settings={
                "kernel": type(kernel).__name__,
                **{n: v for n, v in options.items() if isinstance(v, (bool, int, float, str))},
                "num_warmup": self.num_warmup,
                "num_samples": self.num_samples,
                "num_chains": self.num_chains,
                "thinning": self.thinning,
                "pool_adaptation": self.pool_adaptation,
                "sampling_time": run.sampling_seconds,
                "compile_time": run.compile_seconds,
            },
        )

    def _given_starts(self, init_params: Any, density: Any, words: Any, target: Target, fit: Fitted) -> Any:
        """The user's unconstrained positions, by site or as an array; None if there are none, or a strategy finds them."""
        if isinstance(init_params, InitStrategy):
            if fit.starts is None:
                return None
            return proposed_starts(density, words, init_params, self.num_chains, target.fixed)
        return init_params

    if not TYPE_CHECKING:  # to a type checker there are only the attributes that there are

        def __getattr__(self, name: str) -> Any:
            advice = f"; {ATTRIBUTES[name]}" if name in ATTRIBUTES else ""
            raise NoAttributeError(f"MCMC has no attribute {name!r}{advice}.")

    def _drive(self, density: Any, fit: Fitted, target: Target, words, init_params, progress: Progress) -> tuple[Outcome, float]:
        """What the loop leaves, and the time at which it began."""
        target = target._replace(layout=target.layout._replace(dtype="float64")) if fit.wide else target
        plan = Plan(warmup_schedule(self.num_warmup), fit.tuning, np.int32(self.thinning), np.asarray(bool(self.keep_warmup)))
        meetings = ()
        if self.pool_adaptation:
            plan, meetings = pooled(plan, self.num_chains, type(self.kernel).__name__)
        start = start_positions(init_params, target.layout, self.num_chains)
        start = start if init_params is not None or fit.starts is None else fit.starts
        given = np.asarray(init_params is not None)
        begin_args = (words, plan, start, given, target.fixed)
        capacity = capacity_of(target, self.num_chains)
        compiled = compiled_sampler(target, fit.transition, self.num_chains, capacity, plan, begin_args)
        meet = compiled.pool() if meetings else None
        driving = perf_counter()
        num_kept = self._num_warmup_kept + self.num_samples // self.thinning
        total = self.num_warmup + self.num_samples
        begin, state = compiled.begin(*begin_args)
        inspect = partial(fit.inspect, fit.transition)
        outcome = drive(
            compiled, begin, state, target.data, plan, total, num_kept, capacity, self.compact, progress, meetings, meet, inspect
        )
        if not outcome.ok.all():
            last = np.asarray(outcome.state.position)
            raise init_error(density, target.layout, last, outcome.ok, bool(given), fit.transition.uses_gradient, target.fixed)
        return outcome, driving

    @property
    def _num_warmup_kept(self) -> int:
        return self.num_warmup // self.thinning if self.keep_warmup else 0

    @property
    def _done(self) -> Finished:
        if self._finished is None:
            raise SamplerError("MCMC: there are no draws yet; call mcmc.run(jax.random.key(0), ...) first.")
        return self._finished

    @property
    def _started(self) -> Finished:
        if not self._done.started:
            raise SamplerError("MCMC: the run was interrupted before its chains had started; call mcmc.run again.")
        return self._done

    @property
    def _warming(self) -> slice:
        return slice(0, min(self._num_warmup_kept, int(self._done.outcome.filled.min())))

    @property
    def _sampling(self) -> slice:
        # After an interrupt every chain is cut to the shortest.
        return slice(self._num_warmup_kept, max(self._num_warmup_kept, int(self._done.outcome.filled.min())))

    def _values(self, draws: slice) -> dict[str, np.ndarray]:
        run = self._done
        return {name: value[:, draws] for name, value in zip(run.names, run.outcome.values, strict=True)}

    def _warn(self) -> None:
        outcome = self._done.outcome
        kept = self._sampling.stop - self._sampling.start
        if outcome.interrupted:
            warnings.warn(
                f"The run was interrupted: {kept} of {self.num_samples // self.thinning} draws per chain were kept"
                + ("; the warm-up was not over." if not kept else "."),
                InterruptWarning,
                stacklevel=5,
            )
        diverging = outcome.counts.divergences
        if diverging.any():
            warnings.warn(
                f"{int(diverging.sum())} transitions after warm-up diverged ({_by_chain(diverging)}): the draws may "
                "miss a region of the posterior. Reparametrise the model, or raise target_accept_prob.",
                DivergenceWarning,
                stacklevel=5,
            )


def _where_to_start(start: Any, init_params: Any, model: Any) -> Any:
    """Positions by site, an array of them, or a strategy; None if neither argument is given."""
    if start is not None:
        if init_params is not None:
            raise SamplerError("MCMC.run: start and init_params are both given; give one of them.")
        if not isinstance(start, (MCMC, ChainState)):
            raise SamplerError(
                f"MCMC.run: start is a {type(start).__name__}, an earlier MCMC or its state expected; write init_params=... for positions"
                f"{known_parameter(model, 'start')}."
            )
    if isinstance(init_params, Mapping):
        _log.info("init_params: the values are read as unconstrained ones; init_params=init_to_value({...}) takes constrained ones.")
    given = init_params if start is None else start
    if isinstance(given, MCMC):
        run = given._started
        return run.layout.unravel(np.asarray(run.outcome.state.position))
    if callable(given) and not isinstance(given, (type, Mapping)):
        return as_strategy(given)
    return given


def _density_of(model, args, kwargs):
    """The model's log density on these data; a log density that is given instead of a model is taken as it is."""
    if hasattr(model, "positions") and hasattr(model, "constrain"):
        if args or kwargs:
            raise SamplerError("MCMC.run: the kernel has a log density, which holds its data; give no further arguments.")
        return model
    check_arguments("MCMC.run", model, args, kwargs, RUN)
    return log_density(model, *args, **kwargs)


def _check_kernel(kernel) -> None:
    if isinstance(kernel, type) or not (hasattr(kernel, "model") and hasattr(kernel, "fit")):
        found = getattr(kernel, "__name__", type(kernel).__name__)
        foreign = (getattr(kernel, "__module__", None) or "").split(".")[0]
        if foreign in ("numpyro", "pymc", "blackjax"):
            known = found if found in ("NUTS", "HMC") else "NUTS"
            raise SamplerError(f"MCMC: kernel is {foreign}'s {found}, one of Luciole's expected; write lc.MCMC(lc.{known}(model)).")
        raise SamplerError(f"MCMC: kernel is {found}, a kernel expected; write MCMC(NUTS(model), ...).")


def _by_chain(counts: np.ndarray) -> str:
    """Counts of few chains one by one; of many, how many chains have any."""
    if counts.size <= _LISTED_CHAINS:
        return f"by chain: {counts.tolist()}"
    return f"in {np.count_nonzero(counts)} of {counts.size} chains"


_LISTED_CHAINS = 16
