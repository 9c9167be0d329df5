"""Pooled adaptation: where a window of the warm-up ends all chains meet, and go on with one step size and one metric.

Within a window every chain adapts its step size alone and takes the moments of its own positions. Chains meet between chunks, never inside
of one, so the host ends a chunk where they have to: at the windows' ends and at the end of the warm-up.

Source: Chan, Golub & LeVeque (1983), "Algorithms for computing the sample variance", equation (2.1), for any number of samples at once.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ...transforms.errors import SamplerError
from .adaptation import Welford, covariance_of, empty_welford, restart_dual_averaging, step_size_of, warmup_schedule
from .metric import metric_of
from .records import ChainState, Plan, Tuning

__all__ = ["merge", "pool_chains", "pooled"]

_POSITIONS = 25  # of one chain in Stan's first window
_MAX_START, _MIN_WINDOW = 20, 5  # what dual averaging takes to find the scale of the step size, and to find it again


def pooled(plan: Plan, num_chains: int, kernel: str) -> tuple[Plan, tuple[int, ...]]:
    """The plan of a pooled warm-up.

    Many chains see in a few transitions what one sees in many. So the windows begin after 20 transitions, and the first is so long
    that all chains together take as many positions in it as one chain alone would, but at least five transitions.

    Args:
        plan: of a run in which each chain adapts by itself.
        num_chains: number of chains.
        kernel: its name.

    Returns:
        The plan, without what a chain alone would do at a window's end; and the transitions before which all chains meet: those after
        a window's end, and the first after warm-up.

    Raises:
        SamplerError: the kernel adapts nothing that could be pooled.
    """
    tuning = plan.tuning
    if not tuning.adapt_step_size and not tuning.adapt_metric:
        raise SamplerError(
            f"MCMC: pool_adaptation is True, and {kernel} adapts nothing here: it has nothing to adapt, or you have fixed it; "
            "write pool_adaptation=False."
        )
    schedule = warmup_schedule(int(plan.schedule.num_warmup), _MAX_START, max(_MIN_WINDOW, math.ceil(_POSITIONS / num_chains)))
    ends = schedule.window_ends[schedule.window_ends >= 0] + 1 if tuning.adapt_metric else []
    meetings = {*(int(end) for end in ends), int(schedule.num_warmup)} - {0}
    return plan._replace(schedule=schedule._replace(window_ends=np.full_like(schedule.window_ends, -1))), tuple(sorted(meetings))


def pool_chains(state: ChainState, tuning: Tuning, axes: tuple[str, ...] = ()) -> ChainState:
    """What the chains go on with after a meeting; all have made the same number of transitions.

    The step size is the geometric mean of the averaged ones. The metric is that of all positions of the window, of all chains; where no
    chain has taken any, as at the end of the warm-up, it stays as it is.

    Args:
        state: of all chains, the chain axis leading.
        tuning: the run's.
        axes: of a mesh, over which the chains are split, each device being given its own.
    """
    num_chains = state.log_density.shape[0]
    averages = state.adaptation.dual_averaging
    log_step = averages.log_average.mean() if not axes else lax.pmean(averages.log_average.mean(), axes)
    step_size = jnp.where(tuning.adapt_step_size, step_size_of(log_step), state.step_size[0])
    moments = merge(state.adaptation.welford, axes)
    window = moments.count > 0

    def chosen(new, old):
        return jax.tree.map(lambda a, b: jnp.where(window, jnp.broadcast_to(a, (num_chains, *a.shape)), b), new, old)

    metric = chosen(metric_of(covariance_of(moments)), state.metric)
    kept = averages._replace(log_average=jnp.full_like(averages.log_average, log_step))
    restarted = chosen(restart_dual_averaging(step_size), kept)
    emptied = chosen(empty_welford(moments.scatter), state.adaptation.welford)
    return state._replace(
        step_size=jnp.broadcast_to(step_size, num_chains),
        metric=metric,
        adaptation=state.adaptation._replace(dual_averaging=restarted, welford=emptied),
    )


def merge(welford: Welford, axes: tuple[str, ...] = ()) -> Welford:
    """Moments of the positions of all chains, from those of each, the chain axis leading.

    With n_c positions, mean m_c and scatter S_c of chain c:  n = sum n_c,  m = sum n_c m_c / n,  S = sum S_c + n_c (m_c - m)(m_c - m)'.
    """

    def met(total):
        return lax.psum(total, axes) if axes else total

    count = met(welford.count.sum(dtype=jnp.int32))
    weight = welford.count.astype(welford.mean.dtype)
    mean = met(weight @ welford.mean) / jnp.maximum(met(weight.sum()), 1)
    centred = welford.mean - mean
    weighted = weight[:, None] * centred
    between = (weighted * centred).sum(0) if welford.scatter.ndim == 2 else weighted.T @ centred
    return Welford(mean, met(welford.scatter.sum(0) + between), count)
