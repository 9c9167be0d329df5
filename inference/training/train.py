"""`lc.train`: the modes of a model's joint density that a stochastic optimiser finds, from many starts."""

from collections.abc import Callable
from itertools import islice
from time import perf_counter
from typing import Any

import jax
import numpy as np
import optax
from tqdm.auto import tqdm

from ...ppl import LogDensity, init_to_sample, log_density
from ...ppl.initial import InitStrategy
from ...transforms import TrainingError
from ...transforms.calls import verb
from ...transforms.keys import random_key
from ...transforms.settings import flag, number, whole
from ...transforms.streams import key_words
from .descent import default_optimiser, loss_of, step_of
from .fit import Fit, TrainingCost
from .rows import Rows, plate_of

__all__ = ["train"]

_LOOK = 100  # steps between two looks at the loss, for which the host waits


@verb("lc.train(model, key, *args, num_steps=..., **kwargs)")
def train(
    model: Callable[..., Any],
    key: Any,
    /,
    *args: Any,
    num_steps: int,
    batch_size: int | None = None,
    plate: str | None = None,
    restarts: int = 1,
    step_size: float = 3e-3,
    optimiser: optax.GradientTransformation | None = None,
    init_strategy: InitStrategy | None = None,
    progress_bar: bool = True,
    **kwargs: Any,
) -> Fit:
    """Maximises a model's joint density by stochastic gradients, `restarts` times from different starts.

        x* = argmax  log p(x) + log p(y | x),     by steps along the gradient of  log p(x) + N / B log p(y_batch | x)

    in unconstrained coordinates, but of the density in the model's own: no Jacobian, as in Stan's `optimize`. From draws of the prior, and
    stopped after finitely many steps, the restarts are draws of an implicit distribution that descent makes from the prior (see
    `lc.sgd_evidence`); together they are an ensemble, whose members agree where data are near.

    Args:
        model: a model; `args` and `kwargs` are its arguments, its data: arrays and `lc.Graphs`.
        key: a random key. A restart has the same numbers whatever their count.
        num_steps: of the optimiser. batch_size: rows of a plate in one step; None: all. Each epoch goes through the rows in a new order,
            and leaves out those at its end that fill no batch.
        plate: whose rows; not needed if the observed sites stand in one plate only.
        restarts: how many starts, one after the other, by one compiled program.
        step_size: of Adam, which is the default optimiser; it falls with a cosine to a fiftieth.
        optimiser: an optax gradient transformation instead.
        init_strategy: where to start; by default a draw from the prior (`lc.init_to_sample()`).
        progress_bar: whether to show one.

    Returns:
        Fit: `.samples` by site with the restarts leading, `.predict(...)`, `.last_layer(...)`, `.attribution(...)`.

    Raises:
        ModelError: as `lc.log_density`.
        TrainingError: an argument makes no sense; there is nothing to observe or to train; the plate does not split into batches; the
            loss became infinite or NaN, with the restart and the step.

    Source:
        Kingma and Ba (2015), Adam; Duvenaud, Maclaurin and Adams (2016), Early stopping as nonparametric variational inference, for what
        restarts are draws of.
    """
    whole("train", "num_steps", num_steps, 1, error=TrainingError)
    whole("train", "restarts", restarts, 1, error=TrainingError)
    number("train", "step_size", step_size, lambda x: 0 < x < np.inf, "a positive number", error=TrainingError)
    flag("train", "progress_bar", progress_bar, error=TrainingError)
    optimiser = default_optimiser(step_size, num_steps) if optimiser is None else _checked(optimiser)
    words, begun = key_words(key), perf_counter()
    density = log_density(model, *args, **kwargs)
    if density.program.enumerated:
        name = min(density.program.enumerated)
        raise TrainingError(
            f"train: the discrete site {name!r} ({density.program.sites[name].line}) is latent; modes by minibatches do not sum it out. "
            "Sample with NUTS, which does, or observe it."
        )
    starts = _starts(density, words, restarts, init_strategy)
    rows = _rows(model, density, starts[0], args, kwargs, batch_size, plate)
    step = step_of(loss_of(model, rows), optimiser)
    ends, losses = [], []
    with tqdm(total=restarts * num_steps, disable=not progress_bar, desc="training", dynamic_ncols=True) as bar:
        for i, start in enumerate(starts):
            batches = rows.batches(np.random.default_rng([*np.asarray(words).tolist(), i]))
            position, of_steps = _descend(step, optimiser.init(start), start, islice(batches, num_steps), bar, i)
            ends.append(density.constrain(position))
            losses.append(of_steps)
    samples = {n: np.stack([np.asarray(end[n]) for end in ends]) for n in density.program.latents}
    cost = TrainingCost(perf_counter() - begun, restarts * num_steps, rows.regrown)
    return Fit(model, samples, np.stack(losses), cost)


def _starts(density: LogDensity, words: Any, restarts: int, strategy: InitStrategy | None) -> list[dict[str, Any]]:
    """Unconstrained positions.

    Raises:
        TrainingError: there is nothing to train, or nothing to train it on.
    """
    if not density.dim:
        raise TrainingError("train: the model has no latent site with elements, so there is nothing to train.")
    if all(site.role not in ("observed", "factor") for site in density.program.sites.values()):
        raise TrainingError("train: the model observes nothing: give the data, `lc.sample(name, distribution, obs=y)`.")
    strategy = init_to_sample() if strategy is None else strategy
    keys = [jax.random.fold_in(random_key(words), i) for i in range(restarts)]
    quick: Any = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None  # it runs once for each restart
    start = jax.jit(lambda density, key: density.init(key, strategy)).lower(density, keys[0]).compile(compiler_options=quick)
    return [start(density, key) for key in keys]


def _rows(
    model: Callable[..., Any], density: LogDensity, start: Any, args: tuple, kwargs: dict, batch_size: int | None, plate: str | None
) -> Rows:
    """What batches are taken from; of all rows at once where there is no batch size, or it is their number."""
    if batch_size is not None:
        name, num_rows = plate_of(density.program, plate)
        whole("train", "batch_size", batch_size, 1, num_rows, error=TrainingError)
        if batch_size < num_rows:
            rows = Rows(args, kwargs, name, num_rows, batch_size)
            rows.check(model, start)
            return rows
    observed = [s for s in density.program.sites.values() if s.role == "observed"]
    num_rows = max([1, *(s.shape[0] for s in observed if s.shape)])
    return Rows(args, kwargs, None, num_rows, num_rows)


def _descend(step: Callable[..., Any], state: Any, position: Any, batches: Any, bar: tqdm, restart: int) -> tuple[Any, np.ndarray]:
    """One restart: where it ends, and the loss of each step."""
    losses = []
    for t, batch in enumerate(batches):
        position, state, value = step(position, state, batch)
        losses.append(value)
        if t % _LOOK == _LOOK - 1:
            _check_finite(losses[-_LOOK:], restart, t + 1 - _LOOK)
            bar.update(_LOOK)
            bar.set_postfix(loss=f"{float(value):.3f}", restart=restart)
    rest = len(losses) % _LOOK
    _check_finite(losses[len(losses) - rest :], restart, len(losses) - rest)
    bar.update(rest)
    return position, np.asarray(jax.device_get(losses), np.float32)


def _check_finite(values: list[Any], restart: int, first: int) -> None:
    finite = np.isfinite(np.asarray(jax.device_get(values), float))
    if not finite.all():
        at = int(np.argmin(finite))
        raise TrainingError(
            f"train: restart {restart}: the loss is {float(values[at])} at step {first + at}. Write a smaller step_size, or "
            "start nearer to the data: init_strategy=lc.init_to_median()."
        )


def _checked(optimiser: Any) -> optax.GradientTransformation:
    if not (callable(getattr(optimiser, "init", None)) and callable(getattr(optimiser, "update", None))):
        raise TrainingError(
            f"train: optimiser is a {type(optimiser).__name__}; an optax gradient transformation expected: optax.adam(1e-3)."
        )
    return optimiser
