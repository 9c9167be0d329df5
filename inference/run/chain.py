"""What one chain does in one chunk of a run: find its start if it has none, then move, adapt and keep draws.

Written for one chain; `batching` runs it for many. The log density, with its gradient where the kernel uses it, is called in one place,
`density`, for the search, the warm-up and the draws alike. A kernel that brings its own start brings its own density, too.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ...transforms.autobatch import program
from ..kernels.kernel import Transition
from ..kernels.records import Draw, Plan
from ..kernels.starts import searching, staying

__all__ = ["Begin", "Buffer", "Kept", "Tally", "buffer_for", "chain_program", "counted", "read_buffer"]


Number = Any  # a NumPy value outside of compiled programs, a JAX array inside, or its type


class Begin(NamedTuple):
    """How a chain finds its start.

    Attributes:
        given: bool, (). Whether to take the position that its state has instead of drawing one.
        fixed: constrained values that the strategy brings, by site.
    """

    given: Number
    fixed: dict[str, Number]


class Tally(NamedTuple):
    """Counts over the transitions of one chunk, kept and forgotten ones alike.

    Attributes:
        transitions: int32, ().
        tries: int32, (). Points that the search evaluated.
        sums: integers, (2, number of whole-number statistics). Sums of these statistics, in the order of `counted`: over all transitions,
            and over those in warm-up.
    """

    transitions: jax.Array
    tries: jax.Array
    sums: jax.Array


class Buffer(NamedTuple):
    """A buffer of draws, a row for each: two arrays, because every array costs a write in every turn of the machine.

    Attributes:
        real: (capacity, dim + number of them). The position and the real statistics.
        whole: int32, or int64 if a statistic is, (capacity, number of them). The other statistics.
    """

    real: jax.Array
    whole: jax.Array


class Kept(NamedTuple):
    """The draws of one chunk.

    Attributes:
        draws: `capacity` rows.
        count: int32, (). How many entries are filled.
        tally: what was done for them.
        ok: bool, (). Whether the chain has a start where log density and, if it is used, gradient are finite.
    """

    draws: Buffer
    count: jax.Array
    tally: Tally
    ok: jax.Array


def chain_program(value_and_grad, initial, transition: Transition, plan: Plan, searches: bool):
    """The program of a chunk.

    Args:
        value_and_grad: position (dim,) -> (log density (), gradient (dim,), or (0,) if the kernel uses none).
        initial: key words, uint32 (2,), and fixed values -> a drawn position (dim,).
        transition: the kernel's static part.
        plan: the run's.
        searches: whether a start has to be found; if not chains stay where they are.

    Returns:
        A program of `Begin`, `ChainState`, whether its position is still to be found, bool (), the kernel's `noise` for the chunk's
        transitions, and the `Buffer` for their draws, both with a leading axis, and the transition to stop before, int32 ().
        It returns the `ChainState` and `Kept`.
    """

    @program(heavy=True)
    def density(position, auxiliary):
        return *value_and_grad(position), auxiliary

    kinds = transition.stats
    find = searching(density, initial, transition.uses_gradient, getattr(transition, "layout", None)) if searches else staying
    move = transition.program(density, plan)

    @program
    def chunk(begin, state, fresh, noise, draws, until):
        ok, none = jnp.bool_(True), jnp.int32(0)
        tally = Tally(none, none, jnp.zeros((2, draws.whole.shape[-1]), draws.whole.dtype))
        if fresh:
            state, ok, tries = find(state, begin.given, begin.fixed)
            tally = tally._replace(tries=tries)
        count, first = jnp.int32(0), state.stream.counter
        while ok & (state.stream.counter.astype(jnp.int32) < until):
            state, draw = move(state, _row(noise, state.stream.counter - first))
            index = state.stream.counter.astype(jnp.int32) - 1
            whole = _whole(draw.stats, kinds, draws.whole.dtype)
            tally = _count(tally, whole, index < plan.schedule.num_warmup)
            if _is_kept(index, plan):
                draws = _write(draws, count, draw, whole, kinds)
                count = count + 1
        return state, Kept(draws, count, tally, ok)

    return chunk


def _row(noise: Any, index: Any) -> Any:
    return jax.tree.map(lambda numbers: numbers[index], noise)


def buffer_for(capacity: int, dim: int, dtype: Any, stats: dict[str, str]) -> Buffer:
    """An empty buffer.

    Args:
        capacity, dim: of the arrays.
        dtype: the run's float type.
        stats: kinds by name, as in `Transition.stats`.
    """
    real, whole = _by_kind(stats)
    kept = jnp.int64 if "int64" in stats.values() else jnp.int32
    return Buffer(jnp.zeros((capacity, dim + len(real)), dtype), jnp.zeros((capacity, len(whole)), kept))


def read_buffer(buffer: Buffer, dim: int, stats: dict[str, str]) -> Draw:
    """The draws in it, as a `Draw` whose fields have the buffer's leading axes."""
    real, whole = _by_kind(stats)
    columns = {name: buffer.real[..., dim + n] for n, name in enumerate(real)}
    columns |= {name: buffer.whole[..., n].astype(stats[name]) for n, name in enumerate(whole)}
    return Draw(buffer.real[..., :dim], {name: columns[name] for name in stats})


def counted(stats: dict[str, str]) -> list[str]:
    """The statistics that are whole numbers, truth values included, from their kinds by name."""
    return [name for name, kind in stats.items() if kind != "float"]


def _by_kind(stats: dict[str, str]) -> tuple[list[str], list[str]]:
    return [name for name, kind in stats.items() if kind == "float"], counted(stats)


def _whole(stats: dict[str, Any], kinds: dict[str, str], dtype: Any) -> jax.Array:
    return jnp.stack([stats[name].astype(dtype) for name in counted(kinds)])


def _write(buffer: Buffer, count: Any, draw: Draw, whole: jax.Array, kinds: dict[str, str]) -> Buffer:
    real, _ = _by_kind(kinds)
    values = jnp.concatenate([draw.position, jnp.stack([draw.stats[name].astype(buffer.real.dtype) for name in real])])
    return Buffer(buffer.real.at[count].set(values), buffer.whole.at[count].set(whole))


def _is_kept(index, plan: Plan):
    """Whether the transition is kept: the last of each `thinning`, warm-up only if asked for."""
    past = index - plan.schedule.num_warmup
    within = jnp.where(past < 0, index, past)
    return ((within + 1) % plan.thinning == 0) & ((past >= 0) | plan.keep_warmup)


def _count(tally: Tally, whole: jax.Array, warming: jax.Array) -> Tally:
    return tally._replace(
        transitions=tally.transitions + 1, sums=tally.sums + jnp.stack([whole, jnp.where(warming, whole, jnp.zeros_like(whole))])
    )
