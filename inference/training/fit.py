"""What training found, and what can be asked of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from ...ppl import condition, trace
from ...transforms import TrainingError
from .attribution import Attribution, attribute
from .expected import expected, predicted_site
from .last_layer import LastLayer, last_layer
from .prediction import Noise, Prediction

__all__ = ["Fit", "TrainingCost"]


@dataclass(frozen=True)
class TrainingCost:
    """Attributes: seconds, tracing and compiling included; gradient_evaluations; regrown: batches of graphs that had to grow arrays."""

    seconds: float
    gradient_evaluations: int
    regrown: int


@dataclass(frozen=True, eq=False)
class Fit:
    """Modes of a model's joint density from several starts.

    Attributes:
        model: as it was trained.
        samples: constrained values by latent site, (restart, *site shape): what `lc.posterior_predictive` and `lc.predict` take.
        losses: (restart, step) the loss of each batch before its step, nats per row.
        cost: what it took.
        noise: by site, what `calibrate` found on held-out rows.
    """

    model: Callable[..., Any]
    samples: dict[str, np.ndarray]
    losses: np.ndarray
    cost: TrainingCost
    noise: dict[str, Noise] = field(default_factory=dict)

    def __repr__(self) -> str:
        dim = sum(v[0].size for v in self.samples.values())
        return (
            f"Fit({len(self.losses)} restarts, {dim} parameters, {self.losses.shape[1]} steps, last losses "
            f"{np.array2string(self.losses[:, -1], precision=3)} nats per row)"
        )

    def __getitem__(self, restarts: Any) -> "Fit":
        """Some of the restarts: a number, a slice, or several numbers."""
        chosen = np.atleast_1d(np.arange(len(self.losses))[restarts])
        return replace(self, samples={n: v[chosen] for n, v in self.samples.items()}, losses=self.losses[chosen])

    def __add__(self, other: "Fit") -> "Fit":
        """Both as one ensemble, of the same model."""
        if {n: v.shape[1:] for n, v in self.samples.items()} != {n: v.shape[1:] for n, v in other.samples.items()}:
            raise TrainingError("Fit: only fits of models with the same sites and shapes make one ensemble.")
        steps = max(self.losses.shape[1], other.losses.shape[1])
        losses = [np.pad(f.losses, ((0, 0), (steps - f.losses.shape[1], 0)), constant_values=np.nan) for f in (self, other)]
        samples = {n: np.concatenate([v, other.samples[n]]) for n, v in self.samples.items()}
        gradients = self.cost.gradient_evaluations + other.cost.gradient_evaluations
        cost = TrainingCost(self.cost.seconds + other.cost.seconds, gradients, self.cost.regrown + other.cost.regrown)
        return replace(self, samples=samples, losses=np.concatenate(losses), cost=cost, noise={})

    def predict(self, *args: Any, site: str | None = None, **kwargs: Any) -> Prediction:
        """What the members expect of one site on new rows: the mean and variance of its distribution, given each member's parameters.

        Args:
            args, kwargs: of the model, with the new rows. An observation that is given plays no part.
            site: which; not needed if one sample site is no parameter.

        Raises:
            ModelError: as `lc.trace`; the site's distribution has no mean in closed form.
            TrainingError: no such site, or several and none was named; the site is of labels, which have no mean.
        """
        name, prediction = self._predicted("predict", site, args, kwargs)
        return prediction.calibrated(self.noise[name]) if name in self.noise else prediction

    def _predicted(self, owner: str, site: str | None, args: tuple, kwargs: dict) -> tuple[str, Prediction]:
        """The site, and what the members expect of it, before any calibration."""
        program = trace(self.model, *args, **kwargs)
        name = predicted_site(program, self.samples, site, owner)
        found = [expected(program, name, program.data, self.member(i)) for i in range(len(self.losses))]
        members, variances = (np.stack([np.asarray(f[k], float) for f in found]) for k in (0, 1))
        if np.isnan(members).all() and members.size:
            raise TrainingError(
                f"{owner}: the distribution of site {name!r} has no mean (labels are no numbers); draw from it: "
                "lc.posterior_predictive(model, key, fit.samples, ...)."
            )
        return name, Prediction(members.mean(axis=0), members.std(axis=0), variances.mean(axis=0), members)

    def calibrate(self, y: Any, *args: Any, site: str | None = None, scale_members: bool = False, **kwargs: Any) -> "Fit":
        """The same fit, with the noise that held-out rows show: what parameters were fitted to looks less noisy than it is.

        The variance of an observation becomes a s_i^2 + v, with s_i the disagreement of the members about row i, and v (and a, if
        `scale_members`; else 1) those under which the held-out observations are likeliest.

        Args:
            y: (*row,) held-out observations of the site. args, kwargs: the model's arguments for these rows.
            site: as for `predict`. scale_members: whether to fit a.

        Raises:
            TrainingError: as `predict`; fewer than ten observations.
        """
        name, prediction = self._predicted("calibrate", site, args, kwargs)
        return replace(self, noise={**self.noise, name: prediction.noise_of(y, scale_members)})

    def member(self, restart: int) -> dict[str, np.ndarray]:
        """Constrained values by site of one restart."""
        return {n: v[restart] for n, v in self.samples.items()}

    def given(self, restart: int = 0, *, free: str | Sequence[str]) -> Callable[..., Any]:
        """The model with one member's values for all sites but those named: what is left to sample is a last layer, say.

            lc.MCMC(lc.NUTS(fit.given(0, free=["out.*", "sigma"]))).run(key, graphs, y)

        Args:
            restart: which member. free: names of sites, or patterns with `*`, that stay latent.

        Raises:
            TrainingError: a pattern that is no site's.
        """
        kept = matching(self.samples, free, "given")
        return condition(self.model, {n: v for n, v in self.member(restart).items() if n not in kept})

    def last_layer(self, *args: Any, free: str | Sequence[str], restart: int = 0, site: str | None = None, **kwargs: Any) -> LastLayer:
        """The exact posterior of a layer with normal priors in which the mean is affine, given one member's values for all the rest.

        Args:
            args, kwargs: of the model, with the observations.
            free: names of the layer's sites, or patterns with `*`: "out.*". restart, site: as for `given` and `predict`.

        Raises:
            TrainingError: the mean is not affine in them, a prior or the likelihood is not normal, or the noise depends on them.
        """
        return last_layer(self.model, self.member(restart), matching(self.samples, free, "last_layer"), site, args, kwargs)

    def attribution(self, *args: Any, site: str | None = None, **kwargs: Any) -> Attribution:
        """What each node of each graph, at each layer, adds to the prediction: the sum is the prediction minus that of no nodes.

        Args:
            args, kwargs: of the model, `lc.Graphs` among them. site: as for `predict`.

        Raises:
            TrainingError: as `predict`; there are no graphs among the arguments, or of several kinds.
        """
        return attribute(self.model, self.samples, site, args, kwargs)


def matching(sites: Any, free: str | Sequence[str], owner: str) -> list[str]:
    """The sites that some patterns name.

    Raises:
        TrainingError: a pattern names none.
    """
    patterns = [free] if isinstance(free, str) else list(free)
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in sites):
            raise TrainingError(
                f"{owner}: free={pattern!r} is no latent site; expected one of {list(sites)}, or a pattern such as 'out.*'."
            )
    return [n for n in sites if any(fnmatchcase(n, pattern) for pattern in patterns)]
