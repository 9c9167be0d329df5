"""`FlyMC`: what a user configures, and the kernel that it becomes on data."""

import logging
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ...ppl import InitStrategy, LogDensity, init_to_median
from ...ppl.factors import find_factor
from ...transforms.calls import answering
from ...transforms.errors import BoundError, LucioleWarning, SamplerError
from ...transforms.settings import choice, mapping, number, whole
from ..kernels.hmc import HMC
from ..kernels.kernel import check_step_size, check_target, tuning_of
from ..kernels.nuts import NUTS
from ..kernels.random_walk import RWM
from ..kernels.slice import Slice
from ..kernels.words import KERNEL
from .fitted import FittedFlyMC
from .setup import Setup, set_up
from .transitions import GivenTransition, RotationTransition

__all__ = ["BreakEvenWarning", "FlyMC"]

_log = logging.getLogger("luciole")
_SETUP = ("softening", "radius", "capacity", "z_update")
_ROTATION = ("trajectory_length", "num_steps", "step_size", "target_accept_prob")
_OF_RANDOM_WALKS = 2.0  # softening: they see less of where bright rows push, and get stuck between them; tuned on the benchmark
_LEAST_NUMBERS = 100_000  # of a design matrix: a gradient over fewer takes no longer than the bookkeeping of bright rows
_LEAST_RATIO = 10  # rows to rows touched per iteration: a bright row costs about as much as ten in a pass


class BreakEvenWarning(LucioleWarning):
    """The data are too few for Firefly Monte Carlo to be faster than NUTS on all of them; the draws are right."""


@answering("FlyMC", KERNEL)
@dataclass(frozen=True, eq=False)
class FlyMC:
    """Firefly Monte Carlo: the exact posterior of a model with tall data, from a few of its rows at a time.

    Every row n gets a bright or dark state z_n, and the chain's density is

        p(u, z) = prior(u) prod_n L_n(u) r_n(u)^{z_n} (1 - r_n(u))^{1 - z_n},    r_n = 1 - B_n(u) / L_n(u),

    whose marginal is the posterior whatever the bounds B_n <= L_n are. As prod B_n is known in closed form, only bright rows are evaluated.
    An iteration moves the parameters given z, and then updates z. Rows, predictors and bounds are found in the model: the observed site of
    a plate whose likelihood depends on the latent variables through linear predictors (Bernoulli, Binomial, Poisson, negative
    binomial, Categorical, Normal, Student-t, Cauchy, logistic or, by interval arithmetic, your own). Bounds are proved, not searched for;
    most hold on a ball around the mode, and where a chain leaves it a pass over all rows keeps it exact. Chains run in float64. Rows may
    have weights, L_n^s (`handlers.scale`), and priors may be hierarchies, centred or not.

    Args:
        model: a model, or its log density, which already holds its data.
        kernel: what moves the parameters. "rotation_hmc" integrates the Gaussian part exactly; "hmc", "nuts", "mala", "rwm" and "slice" are
            the transitions of those kernels on the density given z, with the Laplace covariance as metric.
        kernel_options: by name. All kernels: `softening` (by how much bounds are lowered, in units of their predicted gap; 0.5, 1 where few
            rows are bright, or 2 for "rwm", if left out), `radius` (of the ball, in posterior standard deviations), `capacity` (of the
            buffer of bright rows; if it overflows, the run begins again with a larger one and the same random numbers), `z_update`
            ("implicit" evaluates a few of the dark rows; "explicit" all of them, and draws every row's state anew; if left out, the latter
            where more than a quarter of the rows are expected to be bright). "rotation_hmc": `trajectory_length` (radians; 1.7 or, where
            many rows are bright, 2.5 if left out) or `num_steps`, `step_size` (radians, adapted if left out), `target_accept_prob` (0.85).
            Others: the arguments of `HMC`, `NUTS`, `RWM`, `Slice`.
        bounds: "auto". For comparison, "global": bounds that hold everywhere, looser, and more rows bright as data grow; "untuned": those
            of the paper that do not touch at the mode, for classes and residuals, with a good part of all rows bright.
        plate: the name of the plate (or of the observed site) of the data, if there are several.
        rows: where the design matrix is kept. "auto": on the device, or, if it is memory-mapped, in its file; "host": a NumPy array (rows,
            columns) stays in host memory; "device". From a file or the host only rows that are looked at are fetched, by a callback; the
            array must then enter the linear predictor as it is, X @ beta, and what is kept on the device are some ten numbers for each row.

    Chains start at draws from the Laplace approximation unless `init_params` are given. `sample_stats` has `n_bright` and `n_queries`, the
    likelihoods of rows evaluated by the iteration; `mcmc.cost["likelihood_queries"]` counts all, set-up included; `lp` is the log density
    of parameters and bright rows together.

    Raises:
        SamplerError: an argument makes no sense; names it. At `MCMC.run`, a `ModelError` if the model has no such site, a `BoundError` if a
            row has no bound or one of yours exceeds the likelihood, a `SamplerError` if the posterior has no mode.

    Sources: Maclaurin & Adams (2014), "Firefly Monte Carlo: exact MCMC with subsets of data". Deviations: bounds on a ball and the pass
    outside it, lowered bounds, and proposals of dark rows as a Poisson process with one rate for each row.
    """

    model: Any
    kernel: Literal["rotation_hmc", "hmc", "nuts", "mala", "rwm", "slice"] = "rotation_hmc"
    kernel_options: Mapping[str, Any] = field(default_factory=dict)
    bounds: Literal["auto", "global", "untuned"] = "auto"
    plate: str | None = None
    rows: Literal["auto", "host", "device"] = "auto"

    def __post_init__(self):
        choice("FlyMC", "kernel", self.kernel, ("rotation_hmc", *_OTHERS))
        own = "lc.bounds.register gives a bound of your own"
        choice("FlyMC", "bounds", self.bounds, ("auto", "global", "untuned"), write=own)
        choice("FlyMC", "rows", self.rows, ("auto", "host", "device"))
        if not isinstance(self.plate, str | None):
            raise SamplerError(f"FlyMC: plate is {self.plate!r}, the name of a plate or None expected.")
        options = mapping("FlyMC", "kernel_options", self.kernel_options)
        for name in ("softening", "radius", "trajectory_length"):
            if options.get(name) is not None:
                number("FlyMC", f"kernel_options[{name!r}]", options[name], lambda x: 0 <= x < np.inf, "a number of at least 0")
        for name in ("capacity", "num_steps"):
            if options.get(name) is not None:
                whole("FlyMC", f"kernel_options[{name!r}]", options[name], 1)
        if options.get("z_update") is not None:
            choice("FlyMC", "kernel_options['z_update']", options["z_update"], ("implicit", "explicit"))
        _, inner = self._options
        if self.kernel == "rotation_hmc":
            unknown = [name for name in inner if name not in _ROTATION]
            if unknown:
                known = ", ".join(_SETUP + _ROTATION)
                raise SamplerError(f"FlyMC: kernel_options has {unknown}; for 'rotation_hmc' there are {known}.")
            check_target("FlyMC", inner.get("target_accept_prob", 0.85))
            check_step_size("FlyMC", inner.get("step_size"))
        else:
            self._inner(inner, {})

    @property
    def _options(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Those of the set-up, and those of the kernel."""
        given = self.kernel_options
        return {k: v for k, v in given.items() if k in _SETUP}, {k: v for k, v in given.items() if k not in _SETUP}

    def _inner(self, options: dict[str, Any], metric: dict[str, Any]) -> Any:
        try:
            return _OTHERS[self.kernel](**{**metric, **options})
        except TypeError as e:
            raise SamplerError(f"FlyMC: kernel_options of {self.kernel!r}: {e}.") from None

    @property
    def init_strategy(self) -> InitStrategy:
        """Not used: chains start near the mode."""
        return init_to_median()

    def fit(self, density: LogDensity, words: Any, num_chains: int) -> FittedFlyMC:
        """Finds the rows, bounds them, and draws starts."""
        if density.program.enumerated:
            name = min(density.program.enumerated)
            raise BoundError(
                f"FlyMC: the discrete site {name!r} ({density.program.sites[name].line}) is summed out, and the rows of a mixture have no "
                "bound here. Use NUTS, HMC or Slice, which sum it out too, or observe it."
            )
        setup_options, inner_options = self._options
        if self.kernel == "rwm":
            setup_options.setdefault("softening", _OF_RANDOM_WALKS)
        capacity = setup_options.pop("capacity", 0)
        found = set_up(find_factor(density, self.plate, self.rows), density, bounds=self.bounds, **setup_options)
        conditional, bound_data = found.conditional, found.bound_data
        conditional = conditional.with_capacity(max(capacity, conditional.capacity))
        _log.info(
            "FlyMC: %d rows, %.1f expected to be bright, softening %g, %d likelihoods evaluated in the set-up",
            len(bound_data.anchor), found.predicted, found.softening, found.queries,
        )  # fmt: skip
        _warn_of_few(found)
        dim, options = density.dim, {"bound_data": bound_data}
        if self.kernel == "rotation_hmc":
            transition, tuning = RotationTransition(conditional), _rotation_tuning(inner_options, options, found.length, dim)
        else:
            covariance = np.asarray(bound_data.scale) @ np.asarray(bound_data.scale).T
            inner = self._inner(inner_options, _metric(self.kernel, covariance))
            transition = GivenTransition(inner.transition(), conditional)
            tuning = inner.tuning(dim, np.dtype(np.float64), density)
            tuning = tuning._replace(options={**tuning.options, **options})
        noise = np.random.default_rng(np.asarray(words, np.uint32)).standard_normal((num_chains, dim))
        starts = np.asarray(bound_data.centre) + noise @ np.asarray(bound_data.scale).T
        return FittedFlyMC(
            transition=transition,
            tuning=tuning,
            starts=starts,
            factor=found.factor,
            num_rows=len(bound_data.anchor),
            queries=found.queries,
            whole_transitions=self.kernel == "rotation_hmc",
        )


def _rotation_tuning(inner: dict[str, Any], options: dict[str, Any], length: float, dim: int):
    dtype = np.dtype(np.float64)
    options = {
        **options,
        "trajectory_length": np.asarray(inner.get("trajectory_length") or length, dtype),
        "num_steps": np.int32(inner.get("num_steps") or 0),
    }
    target, step = inner.get("target_accept_prob", 0.85), inner.get("step_size")
    tuning = tuning_of(step, np.ones(dim, dtype), False, target, options)
    return tuning._replace(step_size=np.asarray(0.5 if step is None else step, dtype))


def _metric(kernel: str, covariance: np.ndarray) -> dict[str, Any]:
    if kernel == "slice":
        return {"width": 3.2 * np.sqrt(np.diag(covariance))}
    return {"dense_mass": True, "inverse_mass_matrix": covariance}


def _other(make: Callable[..., Any], **usual: Any) -> Callable[..., Any]:
    """A kernel without a model, with our defaults in place of its own."""
    return lambda **options: make(None, **(usual | options))


def _hmc(**options: Any) -> HMC:
    length = {} if "num_steps" in options else {"trajectory_length": 1.7}
    return _other(HMC, jitter=0.2, **length)(**options)


_OTHERS: dict[str, Callable[..., Any]] = {
    "hmc": _hmc,
    "nuts": _other(NUTS),
    "mala": _other(HMC, num_steps=1, target_accept_prob=0.574),
    "rwm": _other(RWM),
    "slice": _other(Slice),
}


def _warn_of_few(found: Setup) -> None:
    num, columns = found.bound_data.rows.shape
    touched = 4 * found.predicted + (num if found.conditional.explicit else 1)
    if num * columns >= _LEAST_NUMBERS and num >= _LEAST_RATIO * touched:
        return
    warnings.warn(
        f"FlyMC: site {found.factor.site!r} has {num} rows of {columns} numbers, and about {touched:.0f} likelihoods will be evaluated per "
        "iteration: the data are few enough that lc.NUTS on all of them will be faster. The draws are exact all the same.",
        BreakEvenWarning,
        stacklevel=6,
    )
