"""Markov chain Monte Carlo: what a user runs."""

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np

from ...ppl import log_density
from ...sharding.hardware import Hardware
from ...transforms.calls import answering, check_arguments, verb
from ...transforms.errors import NoAttributeError, SamplerError, StoreError
from ...transforms.settings import flag, whole
from ...transforms.streams import key_words
from ..kernels.kernel import Kernel
from ..kernels.records import ChainState
from ..results.extra_fields import known_fields
from ..results.record import Record
from ..results.results import Readable, Results
from ..results.stored import path_of
from .cost import cost_of
from .memory import Memory
from .notices import DivergenceWarning, InterruptWarning
from .plan import RunPlan, plan_run
from .progress import Progress, ProgressReport, Shown
from .resume import check_place, check_run, kernel_of, new_store, start_from
from .running import Running
from .spec import Settings
from .start import Start, start_of, where_to_start
from .store import Store
from .where import Where
from .words import ATTRIBUTES, MCMC_WORDS, RUN

__all__ = ["MCMC"]

_log = logging.getLogger("luciole")
_LISTED_CHAINS = 16


@answering("MCMC", MCMC_WORDS)
class MCMC(Readable):
    """Runs chains of a kernel and keeps their draws.

    Args:
        kernel: `NUTS(model)`, `HMC(model, ...)`, `Slice(model)`, `EllipticalSlice(model)`, `FlyMC(model)`.
        num_warmup: transitions per chain that adapt what the kernel adapts; 0 or more.
        num_samples: transitions per chain after warm-up; `num_samples // thinning` of them are kept.
        num_chains: number of chains; all run in one program, on one device or on those of a mesh.
        thinning: keep every `thinning`-th draw.
        progress_bar: whether to show one, of several processes on the first; or a function that is called with a `ProgressReport` ten times
            a second, for other front ends.
        keep_warmup: whether to keep the draws of the warm-up as well.
        collect: names of the sites, latent and deterministic, whose draws are kept; None keeps all.
        store: a folder for a Zarr store of the run: settings, data's fingerprint and, after every chunk, draws, statistics and the state of
            the chains. Draws are then read from there and not held in memory. `MCMC.resume` goes on from it, whatever happened to the
            process; `lc.open_store` reads it, also while it is written. The folder must not exist yet.
        compact: once a quarter of the chains remain in a chunk, they continue in a smaller batch, repeatedly. It compiles a program for
            each of these sizes, and pays where a few chains take very much longer than the others; draws agree up to rounding.
        pool_adaptation: whether the chains adapt together. At the end of each window of the warm-up the metric becomes that of the
            positions of all chains, the step size the geometric mean of theirs, and all sample with the same two. Windows begin sooner
            and shorter, the more chains the shorter, so that a short warm-up is enough for many. At each of these ends all wait for the
            slowest: where scales are alike, and there is little to learn, that costs more than it saves. In warm-up the chains are then
            not independent: R-hat says nothing there, and a chain that is stuck spoils the adaptation of all. After warm-up they share
            the step size and the metric, and nothing else.
        mesh: devices, a `jax.sharding.Mesh` or a dict of axes and their sizes; None for one device. `docs/sharding.md` has more.
        tactics: what is split over which axis of the mesh, `ls.ManualPartition`s and `ls.AutomaticPartition`s in order; the chains over
            all axes, if none are given. Names: "chains", "sites.NAME", "data.NAME", "plate:NAME". Draws are those of one device up to
            rounding; `plan` tells the cost before.
        debug: after every turn of the sampler, whether devices that share chains stand at the same place of it. Slow; for kernels of one's
            own, and where a run over devices hangs.

    What is read of the run, `get_samples()`, `sample_stats`, `to_arviz()` and so on, is described in `Readable`. It is that of the last
    run; settings that are changed after it count for the next. `mcmc.results` is the run as it is now, and stays so.

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
        progress_bar: bool | Callable[[ProgressReport], object] = True,
        keep_warmup: bool = False,
        collect: Sequence[str] | None = None,
        store: Any = None,
        compact: bool = False,
        pool_adaptation: bool = False,
        mesh: Any = None,
        tactics: Sequence[Any] | None = None,
        debug: bool = False,
    ):
        _check_kernel(kernel)
        self.kernel = kernel
        self.num_warmup, self.num_samples, self.num_chains, self.thinning = num_warmup, num_samples, num_chains, thinning
        self.keep_warmup, self.collect, self.compact, self.pool_adaptation = keep_warmup, collect, compact, pool_adaptation
        self.progress_bar = progress_bar if callable(progress_bar) else flag("MCMC", "progress_bar", progress_bar)
        self.store = None if store is None else path_of(store)
        self.mesh, self.tactics, self.debug = mesh, tactics, debug
        self._settings()
        Where.of(mesh, tactics)
        self._running: Running | None = None
        self._sink: Any = None
        self._last: Record | None = None

    def _settings(self) -> Settings:
        """The settings as they are now, checked."""
        settings = Settings(
            num_warmup=whole("MCMC", "num_warmup", self.num_warmup, 0, write="write num_warmup=1000"),
            num_samples=whole("MCMC", "num_samples", self.num_samples, 1, write="write num_samples=1000"),
            num_chains=whole("MCMC", "num_chains", self.num_chains, 1, write="write num_chains=4"),
            thinning=whole("MCMC", "thinning", self.thinning, 1, write="write thinning=1"),
            keep_warmup=flag("MCMC", "keep_warmup", self.keep_warmup),
            compact=flag("MCMC", "compact", self.compact),
            pool_adaptation=flag("MCMC", "pool_adaptation", self.pool_adaptation),
            debug=flag("MCMC", "debug", self.debug),
            collect=_names("collect", self.collect),
        )
        if settings.thinning > settings.num_samples:
            raise SamplerError(
                f"MCMC: thinning is {settings.thinning} and num_samples {settings.num_samples}: no draw would be kept; "
                "write thinning=1, or a larger num_samples."
            )
        return settings

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
            start: an earlier run with as many chains, or its `state`: chains start at its last positions, with its step sizes and metrics,
                in what the kernel adapts and the user has not fixed. With num_warmup=0 they go on with just these.
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
        given = where_to_start(start, init_params, self.kernel.model)
        if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
            _log.warning("MCMC.run compiles its chains under jax.disable_jit too; to step through a model call lc.log_density(model, ...).")
        return self._run_compiled(words, args, kwargs, given, extra)

    def _run_compiled(self, words: np.ndarray, args: tuple, kwargs: dict[str, Any], given: Any, extra: tuple[str, ...]) -> Self:
        """See `run`."""
        settings = self._settings()
        with Progress(settings.total, settings.num_chains, self._shown) as progress, jax.disable_jit(False):
            try:
                progress.phase("tracing")
                where = self._where
                args, kwargs = where.on_host((args, kwargs))
                density = _density_of("MCMC.run", self.kernel.model, args, kwargs)
                start = start_of(given, self.kernel, density, settings.num_chains)
                self._sink = self._new_sink(density, words, settings, start, extra)
                self._running = None  # an earlier run cannot be gone on with any more; its results stay until there are others
                progress.phase("compiling")
                running = Running(self.kernel, density, words, settings, start, where)
            except KeyboardInterrupt:
                self._interrupted_early("mcmc.run again" if self.store is None else f"MCMC.resume({str(self.store)!r}, ...)")
                return self
            self._go(running, progress, extra)
        return self

    @verb("mcmc.plan(*args, **kwargs), with the model's arguments")
    def plan(self, /, *args: Any, hardware: Hardware | None = None, **kwargs: Any) -> RunPlan:
        """What `run` would cost on the mesh: how often devices meet and for what, memory, time. Nothing runs, and no devices are needed.

        Args:
            *args, **kwargs: the model's arguments.
            hardware: what times are estimated for, an entry of `ls.HARDWARE` or what `ls.calibrate()` measures; by default a CPU.

        Raises:
            SamplerError: there is no mesh; or a chain, site or kernel cannot be split as the tactics say.
            PartitionError: the tactics do not fit the model or the mesh.
        """
        settings = self._settings()
        where = self._where
        if where.mesh is None:
            raise SamplerError("MCMC.plan: mesh is None, and a run on one device has no plan; write MCMC(kernel, mesh={'chains': 4}).")
        args, kwargs = where.on_host((args, kwargs))
        density = _density_of("MCMC.plan", self.kernel.model, args, kwargs)
        return plan_run(self.kernel, density, settings, where, hardware)

    def extend(self, num_samples: int) -> Self:
        """The same chains go on; the draws equal, bit for bit, those of one long run. After an interrupt they first make up for it.

        Args:
            num_samples: transitions per chain in addition to those that were asked for; 0 or more.

        Raises:
            SamplerError: there is no run to extend.
        """
        more = whole("MCMC.extend", "num_samples", num_samples, 0, write="write mcmc.extend(500)")
        running = self._running
        if running is None:
            raise SamplerError("MCMC.extend: there is no run to go on with; call mcmc.run(jax.random.key(0), ...) first.")
        settings = running.settings._replace(num_samples=running.settings.num_samples + more)
        done = running.snapshot.done
        with Progress(settings.total, settings.num_chains, self._shown, done) as progress, jax.disable_jit(False):
            with self._sink.locked():
                self._sink.grow(settings)
            running.extend(settings)
            self._go(running, progress, self._record.extra_fields, level=4)
        return self

    @classmethod
    def resume(
        cls,
        store: Any,
        model: Any = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        kernel: Kernel | None = None,
        num_samples: int | None = None,
        progress_bar: bool | Callable[[ProgressReport], object] = True,
        num_chains: int | None = None,
        mesh: Any = None,
        tactics: Sequence[Any] | None = None,
    ) -> Self:
        """Goes on with a stored run from wherever it ended: before its first chunk, in the warm-up, or after its last draw.

        The draws equal, bit for bit, those of a run that was never interrupted, on the same kind of machine with the same versions, mesh
        and number of processes; with `compact` up to rounding, as batches of other sizes are rounded otherwise.

        Args:
            store: the folder that `MCMC(store=...)` was given.
            model: the run's model, or its log density.
            args, kwargs: the model's arguments, the run's data.
            kernel: the run's kernel, if it is one of your own; Luciole's are made from their stored settings.
            num_samples: transitions per chain after warm-up in all, at least as many as were asked for; None for just these.
            progress_bar: as for `MCMC`.
            num_chains: that of the run; another cannot be.
            mesh, tactics: as for `MCMC`: where the run goes on. It may be elsewhere than it was: the store does not depend on it.

        Raises:
            StoreError: there is no run, or it is damaged, or being written by another process; model, data, kernel, number of chains or
                float type are others than the run's.

        Warns:
            StoreWarning: versions of JAX or NumPyro, the kind of machine, the mesh, tactics or the number of processes are others: the last
                bits of the draws may be.
        """
        if not isinstance(args, (tuple, list)):
            raise StoreError(f"MCMC.resume: args is a {type(args).__name__}, a tuple of the model's arguments expected; write args=(x, y).")
        if hasattr(model, "fit") and hasattr(model, "model"):
            found = type(model).__name__
            raise StoreError(f"MCMC.resume: found the kernel {found} where the model belongs; write kernel={found}(...), or its model.")
        where = Where.of(mesh, tactics)
        opened = Store.open(path_of(store), where.shared)
        check_place(opened, where)
        kernel = kernel_of(opened, model, kernel)
        settings = _resumed(opened, num_samples, num_chains)
        mcmc = cls(kernel, **settings._asdict(), store=store, progress_bar=progress_bar, mesh=mesh, tactics=tactics)
        words, extra = np.asarray(opened.recipe["key"], np.uint32), tuple(opened.recipe["extra_fields"])
        with Progress(settings.total, settings.num_chains, mcmc._shown) as progress, jax.disable_jit(False):
            try:
                with opened.locked():
                    progress.phase("tracing")
                    args, kwargs = where.on_host((tuple(args), dict(kwargs or {})))
                    density = _density_of("MCMC.resume", kernel.model, args, kwargs)
                    check_run(opened, density)
                    opened.program = _program_of(density)
                    progress.phase("compiling")
                    running = Running(kernel, density, words, settings, start_from(opened, kernel), where, opened.found)
                    with running.precision():
                        opened.load(running.snapshot, running.placement)
                    if settings != opened.settings:
                        opened.grow(settings)
            except KeyboardInterrupt:
                mcmc._interrupted_early(f"MCMC.resume({str(opened.path)!r}, ...)")
                return mcmc
            mcmc._sink = opened
            mcmc._go(running, progress, extra, level=4)
        return mcmc

    @property
    def _shown(self) -> bool | Callable[[ProgressReport], object]:
        """What `Progress` is given: of several processes the first has the bar."""
        second = self.progress_bar is True and self._where.shared and jax.process_index() > 0
        return False if second else self.progress_bar

    @property
    def _where(self) -> Where:
        return Where.of(self.mesh, self.tactics)

    @property
    def results(self) -> Results:
        """The run as it is now; it does not change when the `MCMC` runs again, or goes on."""
        return Results(self._record)

    @property
    def _record(self) -> Record:
        if self._last is None:
            raise SamplerError("MCMC: there are no draws yet; call mcmc.run(jax.random.key(0), ...) first.")
        return self._last

    def _new_sink(self, density: Any, words: np.ndarray, settings: Settings, start: Start, extra: tuple[str, ...]) -> Any:
        """Where the draws of a run go."""
        if self.store is None:
            return Memory(settings)
        store = new_store(path_of(self.store), self.kernel, density, words, settings, start, self._where, extra)
        store.program = _program_of(density)
        return store

    def _go(self, running: Running, progress: Progress, extra: tuple[str, ...], level: int = 6) -> None:
        """Lets the run go on, and keeps what it leaves, also if the store fails.

        Args:
            running: the run.
            progress: shows it.
            extra: the names of `extra_fields`.
            level: of the user's line in the stack, seen from `_warn`.
        """
        try:
            with self._sink.locked():
                running.go(self._sink, (Shown(progress),))
        except StoreError:
            self._keep(running, extra)
            raise
        self._keep(running, extra)
        self._warn(running, level)

    def _keep(self, running: Running, extra: tuple[str, ...]) -> None:
        self._running = running
        settings, snapshot, fitted = running.settings, running.snapshot, running.fitted
        program = running.density.program
        num_warmup_draws, num_draws = settings.split(int(snapshot.filled.min()))
        kernel = self.kernel
        options = {f.name: getattr(kernel, f.name) for f in fields(kernel)} if is_dataclass(kernel) else {}
        cost = cost_of(fitted, snapshot.counts, program, running.target.rows, running.seconds.setup, running.seconds.compile)
        self._last = Record(
            draws=self._sink.draws(),
            num_warmup_draws=num_warmup_draws,
            num_draws=num_draws,
            offset=settings.num_warmup_kept,
            keep_warmup=settings.keep_warmup,
            state=running.chains(),
            started=snapshot.started,
            layout=running.target.layout.whole,
            program=program,
            model=kernel.model,
            pooled=settings.pool_adaptation,
            max_tree_depth=getattr(kernel, "max_tree_depth", None),
            settings={
                "kernel": type(kernel).__name__,
                **{n: v for n, v in options.items() if isinstance(v, (bool, int, float, str))},
                **{n: v for n, v in settings._asdict().items() if n in _SHOWN},
                "sampling_time": cost["sampling_seconds"],
                "compile_time": cost["compile_seconds"],
            },
            cost=cost,
            extra_fields=extra,
        )

    def _interrupted_early(self, instead: str) -> None:
        """What is left of a run that was interrupted while it was traced or compiled: nothing, but for the store, if there is one.

        Raises:
            KeyboardInterrupt: one of several processes was interrupted; the others go on, and would wait for it.
        """
        if self._where.shared:
            raise KeyboardInterrupt
        self._last = self._running = None
        warnings.warn(
            f"The run was interrupted before its chains went on: there are no draws to read. Call {instead}.",
            InterruptWarning,
            stacklevel=5,
        )

    def _warn(self, running: Running, level: int) -> None:
        record, settings, snapshot = self._record, running.settings, running.snapshot
        if snapshot.done < settings.total:
            warnings.warn(
                f"The run was interrupted: {record.num_draws} of {settings.num_samples // settings.thinning} draws per chain were kept"
                + ("; the warm-up was not over." if not record.num_draws else ".")
                + " mcmc.extend(0) goes on with it.",
                InterruptWarning,
                stacklevel=level,
            )
        diverging = snapshot.counts.divergences()
        if diverging is not None and diverging.any():
            warnings.warn(
                f"{int(diverging.sum())} transitions after warm-up diverged ({_by_chain(diverging)}): the draws may "
                "miss a region of the posterior. Reparametrise the model, or raise target_accept_prob.",
                DivergenceWarning,
                stacklevel=level,
            )

    if not TYPE_CHECKING:  # to a type checker there are only the attributes that there are

        def __getattr__(self, name: str) -> Any:
            advice = f"; {ATTRIBUTES[name]}" if name in ATTRIBUTES else ""
            raise NoAttributeError(f"MCMC has no attribute {name!r}{advice}.")


_SHOWN = ("num_warmup", "num_samples", "num_chains", "thinning", "pool_adaptation")


def _names(argument: str, given: Any) -> tuple[str, ...] | None:
    """Names of sites, or None."""
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Sequence) or not given or not all(isinstance(name, str) for name in given):
        raise SamplerError(f"MCMC: {argument} is {given!r}, a list of names of sites expected, or None for all; write {argument}=['mu'].")
    return tuple(given)


def _program_of(density: Any) -> Any:
    """The model; None if there are no sites, as in a density that is not one."""
    return density.program if density.program.sites else None


def _resumed(store: Store, num_samples: int | None, num_chains: int | None) -> Settings:
    """The settings of a stored run, with more draws."""
    settings, shown = store.settings, repr(str(store.path))
    if num_chains is not None and num_chains != settings.num_chains:
        raise StoreError(
            f"MCMC.resume: num_chains is {num_chains}, and the run in {shown} has {settings.num_chains}: chains cannot be added to a run "
            "or taken from it. Leave it out; for more chains run anew, with another key and another store."
        )
    if num_samples is None:
        return settings
    more = whole("MCMC.resume", "num_samples", num_samples, 1, write="write num_samples=2000")
    if more < settings.num_samples:
        raise StoreError(
            f"MCMC.resume: num_samples is {more}, and the run in {shown} was asked for {settings.num_samples} already; write at least "
            "that, or leave it out."
        )
    return settings._replace(num_samples=more)


def _density_of(owner: str, model, args, kwargs):
    """The model's log density on these data; a log density that is given instead of a model is taken as it is."""
    if hasattr(model, "positions") and hasattr(model, "constrain"):
        if args or kwargs:
            raise SamplerError(f"{owner}: the kernel has a log density, which holds its data; give no further arguments.")
        return model
    check_arguments(owner, model, args, kwargs, RUN)
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
