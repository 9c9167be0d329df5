"""What an ensemble says about new rows: a mean, how far its members disagree, and the noise that they expect."""

from dataclasses import dataclass, replace

import numpy as np
from numpyro import distributions as dist

from ...transforms import TrainingError

__all__ = ["Noise", "Prediction"]


@dataclass(frozen=True)
class Noise:
    """How variances are put right by held-out rows: factor * disagreement^2 + variance.

    Attributes:
        variance: of one observation, in its units squared. factor: on the variance between members.
        num_rows: how many rows they were chosen by.
    """

    variance: float
    factor: float
    num_rows: int


@dataclass(frozen=True)
class Prediction:
    """Normal predictions of one site, row by row; approximate: mean and variance of the mixture of the members.

    Attributes:
        mean: (*row,) the mean over members. disagreement: (*row,) the standard deviation between them; 0 for one member.
        variance: (*row,) what they expect an observation to vary by, on average; after `calibrate` the noise of held-out rows.
        members: (member, *row) the mean of each, where there are members.
        noise: what held-out rows said, None before.
    """

    mean: np.ndarray
    disagreement: np.ndarray
    variance: np.ndarray
    members: np.ndarray | None = None
    noise: Noise | None = None

    @property
    def sd(self) -> np.ndarray:
        """(*row,) standard deviation of an observation: of the members and of the noise."""
        factor = 1.0 if self.noise is None else self.noise.factor
        return np.sqrt(factor * self.disagreement**2 + self.variance)

    def interval(self, prob: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends, (*row,) each, of the central interval that holds an observation with probability `prob`.

        Raises:
            TrainingError: prob is no number between 0 and 1.
        """
        if not 0 < prob < 1:
            raise TrainingError(f"interval: prob is {prob!r}; a number between 0 and 1 expected, 0.9 for 90%.")
        half = float(dist.Normal(0.0, 1.0).icdf(0.5 + prob / 2)) * self.sd
        return self.mean - half, self.mean + half

    def coverage(self, y: np.ndarray, prob: float = 0.9) -> float:
        """Share of the observations (*row,) inside of their intervals."""
        low, high = self.interval(prob)
        y = self._fitting(y)
        return float(np.mean((low <= y) & (y <= high)))

    def log_score(self, y: np.ndarray) -> float:
        """Mean log density of the observations (*row,), nats per row; larger is better."""
        variance = self.sd**2
        return float(np.mean(-0.5 * (np.log(2 * np.pi * variance) + (self._fitting(y) - self.mean) ** 2 / variance)))

    def mse(self, y: np.ndarray) -> float:
        """Mean squared error of the mean."""
        return float(np.mean((self._fitting(y) - self.mean) ** 2))

    def calibrated(self, noise: Noise) -> "Prediction":
        """The same members, with the noise that held-out rows show."""
        return replace(self, variance=np.full(self.variance.shape, noise.variance), noise=noise)

    def noise_of(self, y: np.ndarray, scale_members: bool = False) -> Noise:
        """The noise under which observations (*row,) that nothing was fitted to are likeliest.

        Raises:
            TrainingError: fewer than ten observations.
        """
        y = self._fitting(y).ravel()
        if y.size < 10:
            raise TrainingError(f"calibrate: {y.size} held-out observations are too few to tell the noise; at least 10 expected.")
        errors, between = (y - self.mean.ravel()) ** 2, self.disagreement.ravel() ** 2
        factors = np.geomspace(0.1, 30, 60) if scale_members and between.any() else np.ones(1)
        variances = np.geomspace(1e-4, 2, 300) * max(errors.mean(), np.finfo(float).tiny)
        total = factors[:, None, None] * between + variances[:, None]
        score = -0.5 * (np.log(total) + errors / total).mean(axis=-1)
        i, j = np.unravel_index(np.argmax(score), score.shape)
        return Noise(float(variances[j]), float(factors[i]), y.size)

    def _fitting(self, y: np.ndarray) -> np.ndarray:
        y = np.asarray(y, float)
        if y.shape != self.variance.shape:
            raise TrainingError(f"Prediction: y has shape {y.shape}; {self.variance.shape} expected, one for each row that was predicted.")
        return y
