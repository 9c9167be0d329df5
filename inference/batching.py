"""Many chains in one program: the one place where code for a single chain is batched.

Today the batching is `jax.vmap`: all chains finish a transition before any starts the next.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..transforms.streams import stream_for
from .kernel import Transition, start_chain
from .records import ChainState, Plan
from .starts import search
from .target import Data, Target

__all__ = ["Chunk", "Sampler", "Tally", "batch", "capacity_of"]

_MAX_CAPACITY = 512
_MAX_CHUNK_BYTES = 32 * 2**20
_CONSTRAIN_BYTES = 2**20


class Tally(NamedTuple):
    """Counts over the transitions of one call, kept and forgotten ones alike.

    Attributes:
        transitions: int32, (chain,).
        n_steps: int32, (chain,). Gradients that chains needed.
        slots: int32, (). Gradients that were computed, idle chains included.
        diverging: int32, (chain,). Divergent transitions after warm-up.
        depth: int32, (chain,). Sum of tree depths; 0 for kernels without trees.
    """

    transitions: jax.Array
    n_steps: jax.Array
    slots: jax.Array
    diverging: jax.Array
    depth: jax.Array


class Chunk(NamedTuple):
    """The draws of one call.

    Attributes:
        values: constrained and deterministic values in the target's order, each (chain, capacity, ...).
        stats: by name, (chain, capacity).
        count: int32, (chain,). How many entries are filled.
        tally: what the call did.
    """

    values: tuple[jax.Array, ...]
    stats: dict[str, jax.Array]
    count: jax.Array
    tally: Tally


class Sampler(NamedTuple):
    """A batch of chains. Both functions are pure and may be compiled.

    Attributes:
        init: (run key words uint32 (2,), data, plan, start (chain, dim), given bool (),
            fixed values by site) -> (states, ok bool (chain,), tries int32 (chain,)).
        advance: (states, data, plan, ticks int32 ()) -> (states, chunk): at most `ticks` transitions of every chain, fewer when
            the chunk is full.
    """

    init: object
    advance: object


def capacity_of(target: Target, num_chains: int) -> int:
    """Draws that a chunk holds per chain: at most 512, and at most 32 MiB of them."""
    size = target.layout.dim * jnp.dtype(target.layout.dtype).itemsize + sum(_bytes(spec) for spec in target.shapes) + 64
    return max(1, min(_MAX_CAPACITY, _MAX_CHUNK_BYTES // (size * num_chains)))


def batch(target: Target, transition: Transition, num_chains: int, capacity: int) -> Sampler:
    """Batches the chains of a run.

    Args:
        target: the traced density.
        transition: one step of one chain.
        num_chains: number of chains.
        capacity: draws that a chunk holds per chain.
    """

    def init(run_key, data: Data, plan: Plan, start, given, fixed):
        value_and_grad = target.value_and_grad(data)

        def one(chain, start, fixed):
            stream = stream_for(run_key, chain)
            position, result, ok, tries = search(value_and_grad, lambda words: target.initial(data, words, fixed), stream, start, given)
            return start_chain(result, position, stream, plan.tuning), ok, tries

        return jax.vmap(one)(jnp.arange(num_chains, dtype=jnp.uint32), start, fixed)

    def advance(state: ChainState, data: Data, plan: Plan, ticks):
        value_and_grad = target.value_and_grad(data)
        step = jax.jit(jax.vmap(lambda state: transition(value_and_grad, state, plan)), inline=True)  # traced once
        _, shapes = jax.eval_shape(step, state)
        rows = jnp.arange(num_chains)

        def body(carry):
            tick, state, draws, count, tally = carry
            index = state.stream.counter.astype(jnp.int32)
            state, draw = step(state)
            slot = jnp.where(_kept(index, plan), count, capacity)  # beyond the end: dropped
            draws = jax.tree.map(lambda kept, new: kept.at[rows, slot].set(new, mode="drop"), draws, draw)
            tally = _count(tally, draw.stats, index >= plan.schedule.num_warmup)
            return tick + 1, state, draws, count + (slot < capacity).astype(jnp.int32), tally

        def unfinished(carry):
            tick, _, _, count, _ = carry
            return (tick < ticks) & (count < capacity).all()

        draws = jax.tree.map(lambda spec: jnp.zeros((num_chains, capacity, *spec.shape[1:]), spec.dtype), shapes)
        none = jnp.zeros(num_chains, jnp.int32)
        tally = Tally(none, none, jnp.int32(0), none, none)
        carry = (jnp.int32(0), state, draws, none, tally)
        _, state, draws, count, tally = lax.while_loop(unfinished, body, carry)
        values = _constrain(target, data, draws.position, count)
        return state, Chunk(values, draws.stats, count, tally)

    return Sampler(init, advance)


def _kept(index, plan):
    """Whether the transitions `index`, (chain,), are kept: the last of each `thinning`, warm-up only if asked for."""
    past = index - plan.schedule.num_warmup
    within = jnp.where(past < 0, index, past)
    return ((within + 1) % plan.thinning == 0) & ((past >= 0) | plan.keep_warmup)


def _count(tally, stats, sampling):
    n_steps = stats["n_steps"]
    depth = stats.get("tree_depth")
    return Tally(
        transitions=tally.transitions + 1,
        n_steps=tally.n_steps + n_steps,
        slots=tally.slots + n_steps.max() * n_steps.size,
        diverging=tally.diverging + (stats["diverging"] & sampling).astype(jnp.int32),
        depth=tally.depth if depth is None else tally.depth + depth,
    )


def _constrain(target, data, position, count):
    """Constrained values of the filled part of `position`, (chain, capacity, dim), a block of draws at a time."""
    num_chains, capacity, _ = position.shape
    row_bytes = num_chains * max(1, sum(_bytes(spec) for spec in target.shapes))
    block = max(1, min(capacity, _CONSTRAIN_BYTES // row_bytes))
    constrain = jax.vmap(jax.vmap(lambda position: target.constrain(data, position)))

    def body(carry):
        start, values = carry
        # The last block is moved back to fit; what it repeats comes out the same.
        first = jnp.minimum(start, capacity - block)
        new = constrain(lax.dynamic_slice_in_dim(position, first, block, axis=1))
        values = tuple(lax.dynamic_update_slice_in_dim(a, b, first, axis=1) for a, b in zip(values, new, strict=True))
        return start + block, values

    values = tuple(jnp.zeros((num_chains, capacity, *spec.shape), spec.dtype) for spec in target.shapes)
    last = count.max()
    return lax.while_loop(lambda carry: carry[0] < last, body, (jnp.int32(0), values))[1]


def _bytes(spec) -> int:
    return spec.size * spec.dtype.itemsize
