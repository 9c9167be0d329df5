"""A run under way: from a kernel and a density to a `RunSpec`, its compiled programs, and where it stands."""

from collections.abc import Mapping
from contextlib import nullcontext
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from ..kernels.kernel import Fitted, Kernel, compresses
from ..kernels.layout import float_type
from ..kernels.records import ChainState
from ..kernels.starts import init_error, proposed_starts, start_positions
from ..kernels.target import Target, trace_target
from .batching import Chunk
from .compilation import compiled_sampler
from .host import drive
from .observers import BeginAgain, Meeting, Observer, Sink
from .placement import Placement
from .spec import RunSpec, Settings, Snapshot, first_snapshot, spec_of
from .start import Start, tuned
from .where import NOWHERE, Where, split_run

__all__ = ["Running", "Seconds"]


class Seconds(NamedTuple):
    """Wall time before the chains move: of the kernel's look at the data, and of tracing and compiling."""

    setup: float = 0.0
    compile: float = 0.0


class Keeper(Sink, Protocol):
    """A `Sink` of a run that may begin again and go on: `Memory`, or `Store`."""

    snapshot: Snapshot | None

    def locked(self) -> Any: ...
    def draws(self) -> Any: ...
    def allocate(self, names: tuple[str, ...], chunk: Chunk, snapshot: Snapshot, placement: Placement) -> None: ...
    def grow(self, settings: Settings) -> None: ...
    def restart(self, found: dict[str, Any]) -> None: ...


class Running:
    """A run under way. `go` lets it go on to its end, or to an interrupt; `extend` moves the end.

    Args:
        kernel: what samples.
        density: of the model, on its data.
        words: uint32, (2,). Of the run's key.
        settings: of the run.
        start: where chains start.
        where: devices, and what is split over them.
        found: what `Fitted.found` had, of a run that is resumed.

    Attributes:
        spec, compiled, fitted: what is run.
        placement: where.
        snapshot: where it stands.
        seconds: what it cost to come so far.
    """

    def __init__(
        self,
        kernel: Kernel,
        density: Any,
        words: np.ndarray,
        settings: Settings,
        start: Start,
        where: Where = NOWHERE,
        found: Mapping[str, Any] | None = None,
    ):
        self._kernel, self.density, self._words, self._start, self._where = kernel, density, words, start, where
        self.settings, self.seconds = settings, Seconds()
        where.check(kernel)
        begun = perf_counter()
        self.fitted = kernel.fit(density, words, settings.num_chains)
        if found:
            self.fitted = self.fitted.resumed(found)
        looks = self.fitted.setup_queries is not None
        self.seconds = Seconds(setup=perf_counter() - begun if looks else 0.0, compile=0.0 if looks else perf_counter() - begun)
        self.target = self._target()
        self._prepare(self.fitted)

    def _target(self) -> Target:
        """The traced density, and where it is; a moment for most models, and part of what compiling costs."""
        begun = perf_counter()
        fitted, settings = self.fitted, self.settings
        dtype = np.asarray(fitted.tuning.step_size).dtype.name
        if self._where.mesh is not None:
            split = split_run(self._kernel, fitted, self.density, settings, self._start, self._where)
            target, self.fitted, self.placement = split.target, split.fitted, split.placement(self._where.devices())
        else:
            evaluated, gradient = fitted.starts is None, fitted.transition.uses_gradient
            self.placement = Placement.of(self.density)  # of the whole data: what is computed from them goes where they are
            asked = settings.num_chains, gradient, evaluated, settings.collect, compresses(self._kernel)
            target = trace_target(self.density, self._start.strategy, *asked)
        self.seconds = self.seconds._replace(compile=self.seconds.compile + perf_counter() - begun)
        return target._replace(layout=target.layout._replace(dtype=dtype))

    def _prepare(self, fitted: Fitted) -> None:
        """Compiles what is run, and puts the chains where they start."""
        begun = perf_counter()
        self.fitted = fitted
        with self.precision():
            self.spec = self._spec()
            self.compiled = compiled_sampler(self.spec)
            self.snapshot = first_snapshot(self.spec, self._first_chains())
        self.seconds = self.seconds._replace(compile=self.seconds.compile + perf_counter() - begun)

    def _spec(self) -> RunSpec:
        given = np.full(self.settings.num_chains, self._given)
        spec, self._stops = spec_of(type(self._kernel).__name__, self.fitted, self.target, self.placement, self.settings, given)
        return spec

    @property
    def _given(self) -> bool:
        """Whether the chains' positions are the user's."""
        return self._start.positions is not None or (self._start.own and self.fitted.starts is not None)

    def _first_chains(self) -> ChainState:
        """The chains at their first positions; zero where these are searched for."""
        layout, start = self.target.layout.whole, self._start
        positions = np.zeros((self.settings.num_chains, layout.dim), layout.dtype)
        if start.positions is not None:
            positions[:] = start.positions
        elif start.own and self.fitted.starts is not None:
            proposed = proposed_starts(self.density, self._words, start.strategy, self.settings.num_chains, self.target.fixed)
            positions[:] = start_positions(proposed, layout, self.settings.num_chains)
        elif self.fitted.starts is not None:
            positions[:] = self.fitted.starts
        place = self.placement
        chains = self.compiled.begin(self._words, place.put_plan(self.spec.plan), place.put_vectors(positions))
        if start.step_size is None:
            return chains
        return place.put_chains(tuned(place.whole_chains(chains), self.spec.plan.tuning, start.step_size, start.inverse_mass))

    def precision(self) -> Any:
        """The context in which chains run whose float type is not the process's."""
        dtype = self.target.layout.dtype
        return nullcontext() if dtype == float_type() else jax.enable_x64(dtype == "float64")

    def go(self, sink: Keeper, observers: tuple[Observer, ...]) -> None:
        """Lets the run go on; it begins again where the kernel asks for it.

        Raises:
            InitError: a chain found no start.
        """
        with self.precision():
            while True:
                if sink.snapshot is None:
                    sink.allocate(self.target.names, self.compiled.chunk, self.snapshot, self.placement)
                else:
                    self.snapshot = sink.snapshot._replace(chains=self.placement.put_chains(sink.snapshot.chains))
                try:
                    hearing = (*observers, *self.fitted.observers, *self._meetings())
                    self.snapshot = drive(self.compiled, self.spec, self.snapshot, sink, hearing)
                    break
                except BeginAgain as again:
                    sink.restart(again.fitted.found)
                    self._prepare(again.fitted)
                except BaseException:
                    self.snapshot = sink.snapshot or self.snapshot
                    raise
        if not self.snapshot.ok.all():
            last, gradient = np.asarray(self.chains().position), self.fitted.transition.uses_gradient
            raise init_error(self.density, self.target.layout.whole, last, self.snapshot.ok, self._given, gradient, self.target.fixed)

    def chains(self) -> ChainState:
        """Where the chains stand, vectors in program order."""
        with self.precision():
            return self.placement.whole_chains(self.snapshot.chains)

    def _meetings(self) -> tuple[Observer, ...]:
        if not self._stops:
            return ()
        return (Meeting(self._stops, self.compiled.pool(), self.placement.put_plan(self.spec.plan).tuning),)

    def extend(self, settings: Settings) -> None:
        """Moves the end of the run."""
        self.settings, self.spec = settings, self.spec._replace(total=settings.total)
