"""`sgd_evidence`: what a user calls, from the arguments to the result."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from ...ppl import LogDensity, log_density
from ...sharding import ManualPartition
from ...transforms import EvidenceError, key_words
from ...transforms.calls import verb
from ..kernels.layout import Layout
from .batches import cut
from .doubts import doubts
from .fits import Fits
from .follow import Problem, estimate
from .keywords import Keywords, check, resolved
from .objective import Objective, check_model
from .remarks import warn
from .result import Evidence
from .spread import Spread, on_one_device, placement

__all__ = ["sgd_evidence"]


@verb("lc.sgd_evidence(model, key, *args, **kwargs)")
def sgd_evidence(
    model: Callable[..., Any],
    key: Any,
    /,
    *args: Any,
    start: Literal["auto", "fit", "prior", "laplace"] = "auto",
    inflate: float | None = None,
    preconditioner: Literal["auto", "full", "diagonal"] | None = "auto",
    num_steps: int | Literal["auto"] = "auto",
    step_size: Any = None,
    order: Literal["auto", 2, 4, "exact", "reference"] = "auto",
    num_restarts: int = 64,
    batch_size: int | None = None,
    plate: str | None = None,
    gradient_threshold: float | None = None,
    minibatches: Literal["shared", "fresh"] = "shared",
    num_probes: int = 1,
    evaluate_every: int | None = None,
    test: tuple | Mapping[str, Any] | None = None,
    progress_bar: bool = True,
    mesh: Mesh | None = None,
    tactics: Sequence[ManualPartition] | None = None,
    **kwargs: Any,
) -> Evidence:
    """Estimates a lower bound on log p(data) along a path of gradient descent.

    Restarts u_0, in unconstrained coordinates, are drawn from a distribution q_0 of known density, and descend a loss f,

        u_{t+1} = u_t - a_t S S' grad f(u_t),    J_t = d u_{t+1} / d u_t.

    After t steps they are draws of an implicit distribution q_t, whose entropy is that of q_0 and the changes since. So

        log p(y | u_t) + log p(u_t) - log q_0(u_0) + sum_{s<t} log|det J_s|

    estimates the evidence lower bound E_{q_t}[log p(y, u)] + H[q_t] without bias; p(u) has the Jacobians of the bijections.

    For a model of up to 128 parameters q_0 is a normal distribution, a quarter wider than the one that fits the posterior best, f the
    negative log joint density, and S the fit's: every direction reaches the posterior's width at the same time, in the last step, where
    the bound is read. On a Gaussian posterior it is then the evidence. For larger models S is diagonal, and two paths are tried, from the
    prior and from a mode; a few restarts choose the one with the larger bound, the others report it. With `start="prior",
    preconditioner=None` and steps of your own this is plain descent from the prior; its bound is loose where columns are correlated or
    scales unknown, differently for different models, so that it can rank models wrongly.

    What certifies it: every step of every path must be one to one and the estimator of log|det J| a bound, which both follow from the
    largest eigenvalue of I - J. A guard watches it, and `.certified` says whether it stayed below the limit everywhere and the density is
    smooth. That is evidence and no proof: it knows the paths that were sampled. Paths on which a step was too long, or that became
    infinite, are not counted from there on: the others are draws from a truncated q_0, and the bound has log(counted / all) less for
    that. If steps folded (eigenvalues of 1 or more) even the others may overlap. At kinks of the density steps fold unseen (`KinkWarning`).

    What the bound does not know: one start covers one mode (`OtherModeWarning` where another is found), and is low where the posterior is
    far from normal (`NonNormalPosteriorWarning`). For networks it ranks widths and priors, and is far from tight; where it peaks is no time
    to stop training for the sake of predictions.

    Args:
        model: a model; `args` and `kwargs` are its arguments, its data.
        key: a random key. Restart i gets the same random numbers for every model and number of restarts: differences between estimates
            with one key are less noisy than each of them.
        start: q_0 and f. "fit": N(m, k^2 S S'), fitted by variational inference, and the joint density. "laplace": the same, at a mode.
            "prior": the prior, and the likelihood alone. "auto": "fit" with a full preconditioner, "prior" without one, with a diagonal one
            the better of "prior" and "laplace".
        inflate: k; 1.25 by default. With a diagonal preconditioner the start is no wider than the prior.
        preconditioner: S. "full": a matrix. "diagonal". None: the identity, with `step_size`. "auto": full up to 128 parameters.
        num_steps: T. "auto": 16, with a diagonal preconditioner 32, doubled until the guard passes, up to 256. From the prior a path has
            1.5 T steps, at most 256, and a larger T only makes them shorter.
        step_size: a, without preconditioner; one number or (num_steps,), in units of u^2 per nat: it multiplies the gradient of the summed
            loss. a times the largest curvature must stay below a limit, 0.68 for `order=2`; 0.3 is a good largest value.
        order: how log|det J| is had. "exact": the determinant, dim products and dim^3 operations for each step. 2: an estimate of a lower
            bound from one Hessian-vector product, exact to second order. 4: from two, with a far smaller excess. "reference": 2 on what
            the preconditioner does not know; without noise or excess on a Gaussian posterior. "auto": with a full preconditioner "exact"
            up to 32 parameters and "reference" beyond; else 2.
        num_restarts: they run side by side; the standard error falls with their square root.
        batch_size: rows of a plate in one step; must divide their number. None: all. Each epoch goes through all rows in a
            random order, and the loss of a batch is multiplied by the number of batches.
        plate: whose rows; not needed if the observed sites stand in one plate only.
        gradient_threshold: g0; g - g0 tanh(g / g0) instead of g = S' grad f, nats per unit of u: directions in which it is small stay
            where q_0 put them and keep their entropy.
        minibatches: "shared": all restarts see one sequence of batches; the estimate is unbiased for the bound of that sequence.
            "fresh": every restart has its own; q_t is then a mixture over sequences, whose entropy is at least the mean of theirs, so it
            remains a lower bound, a little looser, and restarts differ more.
        num_probes: random vectors per estimate; one is nearly always enough, because restarts average too.
        evaluate_every: steps between two values of the bound; the last step has one too. By default 1, and with minibatches one
            epoch: the bound needs the likelihood of all rows, exactly (an estimate from a batch would be off by hundreds of nats).
        test: arguments of the model with held-out data, a tuple, or a dict of keyword arguments: their log likelihood is evaluated
            at the same steps.
        progress_bar: whether to show one.
        mesh: devices, `jax.make_mesh((8,), ("r",))`. None: the default device, or where the data are.
        tactics: what is split over the mesh. `ls.ManualPartition({"restarts": 0}, axis="r")`: every device follows the paths of its own
            restarts, without a word to the others. `ls.ManualPartition({"plate:rows": 0}, axis="d")`, or by argument, `{"data.x": 0,
            "data.y": 0}`: every device has its own rows, of the data alone; a plate with latent sites in it is refused, for a restart
            has all parameters on each of its devices. Both together, or either. Rows are split by XLA: which collectives there are is
            its choice, and nothing predicts them as `mcmc.plan` does. Held-out data are whole on every device, and every device goes
            through a copy of the whole minibatch. For one start the numbers are those of one device, to 1e-10 of their size in float64
            and 1e-5 in float32. A start that is fitted is as exact as L-BFGS is: over other devices it sums rows in another order and
            stops elsewhere by the square root of a rounding, and the estimate is that of another q_0: in float32 up to some thousandths
            of a nat, as for rows in another order on one device. Where rows are whole, one device has the fits, the restarts that
            choose a path where the devices do not divide their number, and what is done once at the end. Where restarts are split,
            a path that is read at its peak, `start="prior"`, is followed a second time up to there, because finding it takes all restarts.

    Returns:
        The estimate: `bound`, `bound_stderr`, `importance_weighted`, `laplace`, `certified`, `samples`, `plot()`, `to_arviz()`.

    Raises:
        ModelError: as `log_density`; the prior cannot be sampled.
        SamplerError: `key` is no key.
        EvidenceError: an argument makes no sense; a latent site is scaled, masked or has an improper prior; the plate does not split into
            batches of that size; there is no fit, or no mode; every restart became infinite or NaN; no path was ever valid; the devices
            do not divide the restarts.
        PartitionError: a tactic names something other than restarts and data, no axis of the mesh, or one that has been used; it pads;
            the devices do not divide the rows.

    Warns:
        EvidenceRangeWarning: steps were too long for the curvature there; their paths are not counted after them.
        FailedRestartWarning: restarts became infinite or NaN, and are not counted.
        KinkWarning: gradients jump, so that the number is no bound.
        EvidenceFitWarning: the fit has not converged.
        NonNormalPosteriorWarning: no normal distribution is near the posterior, so that the bound may be low.
        OtherModeWarning: there is a further mode, which the bound does not cover.
        PreconditionerWarning: a full preconditioner was asked for, and the model is too large for it.
        InterruptWarning: the user interrupted; the estimate ends there.

    Source: Duvenaud, Maclaurin & Adams (2016), "Early stopping as nonparametric variational inference", AISTATS, has the path from the
    prior without preconditioner. We deviate in the starts, the preconditioners and the estimators (`plan`, `steps`, `estimators`), in
    keeping the prior in the bound, and in what paths that fail cost.
    """
    begun = perf_counter()
    key_data = key_words(key)
    words = Keywords(
        start=start,
        inflate=inflate,
        preconditioner=preconditioner,
        num_steps=num_steps,
        step_size=step_size,
        order=order,
        num_restarts=num_restarts,
        num_probes=num_probes,
        gradient_threshold=gradient_threshold,
        batch_size=batch_size,
        plate=plate,
        minibatches=minibatches,
        evaluate_every=evaluate_every,
        progress_bar=progress_bar,
    )
    check(words)
    where = placement(mesh, tactics, int(num_restarts))
    args, kwargs, test = on_one_device(where, (args, kwargs, test))
    density = log_density(model, *args, **kwargs)
    check_model(density.program)
    objective = Objective(density.program, Layout.of(density.positions))
    now = resolved(words, objective.layout.dim)
    held_out, test_data = _held_out(model, test, density, objective.layout)
    spread = None if where is None else Spread.of(where, density, test_data)
    if spread is not None and spread.rows:  # no device has all rows
        train, tested = spread.train, spread.test
    else:
        train, tested = tuple(jax.device_put(density.data)), tuple(jax.device_put(test_data))
    batches = None if batch_size is None else cut(model, args, kwargs, density, train, objective, batch_size, plate)
    problem = Problem(
        objective=objective,
        batches=batches,
        held_out=held_out,
        train=train,
        test=tested,
        asked=now.asked,
        num_probes=int(num_probes),
        fresh=batches is not None and minibatches == "fresh",
        evaluate_every=int(evaluate_every or (1 if batches is None else batches.count)),
        fits=Fits(objective, train, now.fits),
        key=key_data,
        spread=spread,
    )
    path, evidence = estimate(problem, now, int(num_restarts), bool(progress_bar))
    if now.asked.preconditioner == "full":
        evidence = replace(evidence, doubts=doubts(problem.fits, path, now.asked.inflate, evidence.bound))
    evidence = replace(evidence, seconds=perf_counter() - begun)
    warn(evidence)
    return evidence


def _held_out(model, test, density: LogDensity, layout: Layout) -> tuple[Objective | None, tuple]:
    """The model on the test data, and these data."""
    if test is None:
        return None, ()
    if not isinstance(test, (tuple, Mapping)):
        raise EvidenceError(
            f"sgd_evidence: test is a {type(test).__name__}; write test=(x_test, y_test), the model's arguments, or a dict of them."
        )
    held_out = log_density(model, **test) if isinstance(test, Mapping) else log_density(model, *test)
    if held_out.positions != density.positions:
        raise EvidenceError(
            f"sgd_evidence: on the test data the latent sites are {_shapes(held_out)}, on the training data {_shapes(density)}. "
            "They must be the same: a latent site for each row has no value for new rows."
        )
    objective = Objective(held_out.program, layout)
    if objective.num_observed == 0:
        raise EvidenceError("sgd_evidence: on the test data no site is observed; give the observed values too, test=(x_test, y_test).")
    return objective, held_out.data


def _shapes(density: LogDensity) -> dict[str, tuple[int, ...]]:
    return {name: tuple(spec.shape) for name, spec in density.positions.items()}
