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

__all__ = ["Begin", "Buffer", "Kept", "Tally", "buffer_for", "chain_program", "read_buffer"]


class Begin(NamedTuple):
    """How a chain finds its start.

    Attributes:
        given: bool, (). Whether to take the position that its state has instead of drawing one.
        fixed: constrained values that the strategy brings, by site.
    """

    given: jax.Array
    fixed: dict[str, jax.Array]


class Tally(NamedTuple):
    """Counts over the transitions of one chunk, kept and forgotten ones alike.

    Attributes:
        transitions: int32, ().
        tries: int32, (). Points that the search evaluated.
        n_steps: int32, (). Log densities of the transitions, with or without gradient.
        warmup_steps: int32, (). Those of them in warm-up.
        diverging: int32, (). Divergent transitions after warm-up; 0 for kernels that cannot diverge.
        depth: int32, (). Sum of tree depths; 0 for kernels without trees.
        queries, warmup_queries: integers, (). Likelihoods of rows, of kernels that count them; 0 for others.
    """

    transitions: jax.Array
    tries: jax.Array
    n_steps: jax.Array
    warmup_steps: jax.Array
    diverging: jax.Array
    depth: jax.Array
    queries: jax.Array
    warmup_queries: jax.Array


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
    find = searching(density, initial, transition.uses_gradient) if searches else staying
    move = transition.program(density, plan)

    @program
    def chunk(begin, state, fresh, noise, draws, until):
        ok, none, no_queries = jnp.bool_(True), jnp.int32(0), jnp.zeros((), int)
        tally = Tally(none, none, none, none, none, none, no_queries, no_queries)
        if fresh:
            state, ok, tries = find(state, begin.given, begin.fixed)
            tally = tally._replace(tries=tries)
        count, first = jnp.int32(0), state.stream.counter
        while ok & (state.stream.counter.astype(jnp.int32) < until):
            state, draw = move(state, _row(noise, state.stream.counter - first))
            index = state.stream.counter.astype(jnp.int32) - 1
            tally = _count(tally, draw.stats, index < plan.schedule.num_warmup)
            if _is_kept(index, plan):
                draws = _write(draws, count, draw, kinds)
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


def _by_kind(stats: dict[str, str]) -> tuple[list[str], list[str]]:
    return [name for name in stats if stats[name] == "float"], [name for name in stats if stats[name] != "float"]


def _write(buffer: Buffer, count: Any, draw: Draw, kinds: dict[str, str]) -> Buffer:
    real, whole = _by_kind(kinds)
    values = jnp.concatenate([draw.position, jnp.stack([draw.stats[name].astype(buffer.real.dtype) for name in real])])
    others = jnp.stack([draw.stats[name].astype(buffer.whole.dtype) for name in whole])
    return Buffer(buffer.real.at[count].set(values), buffer.whole.at[count].set(others))


def _is_kept(index, plan: Plan):
    """Whether the transition is kept: the last of each `thinning`, warm-up only if asked for."""
    past = index - plan.schedule.num_warmup
    within = jnp.where(past < 0, index, past)
    return ((within + 1) % plan.thinning == 0) & ((past >= 0) | plan.keep_warmup)


def _count(tally: Tally, stats: dict[str, Any], warming) -> Tally:
    depth, diverging = stats.get("tree_depth"), stats.get("diverging")
    queries = stats["n_queries"].astype(tally.queries.dtype) if "n_queries" in stats else jnp.zeros_like(tally.queries)
    return Tally(
        transitions=tally.transitions + 1,
        tries=tally.tries,
        n_steps=tally.n_steps + stats["n_steps"],
        warmup_steps=tally.warmup_steps + jnp.where(warming, stats["n_steps"], 0),
        diverging=tally.diverging if diverging is None else tally.diverging + (diverging & ~warming).astype(jnp.int32),
        depth=tally.depth if depth is None else tally.depth + depth,
        queries=tally.queries + queries,
        warmup_queries=tally.warmup_queries + jnp.where(warming, queries, 0),
    )
