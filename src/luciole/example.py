"""The built-in example of `python -m luciole`: the eight schools.

Eight American schools ran the same short coaching programme for the SAT-V test. Each school's effect was estimated
apart, with a known standard error; the question is how much of the spread between the eight is real. It is the smallest
data set that needs a hierarchical model, and its centred form is a classic trap for samplers, so the model here is
non-centred: each effect is a standard normal, scaled and shifted.

Source: D. B. Rubin (1981), "Estimation in parallel randomized experiments", Journal of Educational Statistics 6(4),
table 1; priors as in A. Gelman et al., "Bayesian Data Analysis" (2013), section 5.5, with a half-Cauchy(5) scale.
"""

import numpy as np

import luciole as lc
from luciole import dist

SCHOOLS = ("A", "B", "C", "D", "E", "F", "G", "H")  # as the source names them
EFFECT = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])  # points on the SAT-V scale
STANDARD_ERROR = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


@lc.model
def eight_schools(J, sigma, y=None):
    """Partial pooling of J estimated effects `y` with known standard errors `sigma`, in the non-centred form.

    theta_j = mu + tau * theta_raw_j,  y_j ~ Normal(theta_j, sigma_j)

    Args:
        J: number of schools.
        sigma: standard errors of the estimates, shape (J,), points.
        y: estimated effects, shape (J,), points; None to draw them.
    """
    mu = lc.sample("mu", dist.Normal(0.0, 5.0))
    tau = lc.sample("tau", dist.HalfCauchy(5.0))
    with lc.plate("school", J, coords=SCHOOLS):
        theta_raw = lc.sample("theta_raw", dist.Normal(0.0, 1.0))
        theta = lc.deterministic("theta", mu + tau * theta_raw)
        lc.sample("y", dist.Normal(theta, sigma), obs=y)
