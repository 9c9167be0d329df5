"""Many chains in one program: the chunk of one chain (`chain`), compiled for a batch.

Chains never wait for one another inside a chunk: each is at its own place in its own trajectory, and the machine computes one log density
of every chain at a time, with its gradient where the kernel uses it. What the host keeps between calls is the machine's own state, so that
it can look, handle an interrupt, or go on with the few chains that are not done, whenever it likes; chains start the next chunk when all
have ended this one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...transforms.autobatch import Closed, Machine, build_machine, close, compile_program
from ...transforms.streams import pool, stream_for
from ..kernels.kernel import Transition, start_chain
from ..kernels.records import ChainState, Plan
from ..kernels.target import Target
from .chain import Begin, Kept, buffer_for, chain_program, read_buffer

__all__ = ["Chunk", "OneChain", "Sampler", "batch", "capacity_of", "one_chain"]

_MAX_CAPACITY = 512
_MAX_CHUNK_BYTES = 128 * 2**20
_CONSTRAIN_BYTES = 2**20


class Chunk(NamedTuple):
    """What the chains did since they began the chunk.

    Attributes:
        state: of all chains; right when all have ended the chunk.
        kept: their number, and what was done for them.
        stats: statistics by name, each (chain, capacity).
        values: constrained and deterministic values in the target's order, each (chain, capacity, ...).
    """

    state: ChainState
    kept: Kept
    stats: dict[str, jax.Array]
    values: tuple[jax.Array, ...]


class Report(NamedTuple):
    """What the host asks after every call.

    Attributes:
        running: int32, (). Chains that have not ended the chunk.
        ticks: int32, (). Log densities, with gradient where the kernel uses it, computed of every chain since the beginning of the chunk.
        transitions: (). Transitions of a chain since the beginning of the run, the mean over the chains.
    """

    running: jax.Array
    ticks: jax.Array
    transitions: jax.Array


class Sampler(NamedTuple):
    """A batch of chains. The functions are pure and may be compiled.

    Attributes:
        begin: (run key words uint32 (2,), plan, start (chain, dim), number of the first chain) -> `ChainState`, what the first chunk is
            entered with.
        enter: (data, plan, `Begin` of all chains, state, fresh bool (), until int32 ()) -> machine state at the beginning of a chunk.
        advance: (machine state, data, plan, turns int32 (), leave int32 ()) -> (machine state, `Report`), after at most `turns` turns
            of the machine, or when no more than `leave` chains run. For any number of chains, not only for all.
        leave: (machine state, data, plan) -> `Chunk`.
        stop: machine state -> machine state whose chains end the chunk after the transition that they are in.
    """

    begin: Callable[..., Any]
    enter: Callable[..., Any]
    advance: Callable[..., Any]
    leave: Callable[..., Any]
    stop: Callable[..., Any]


class OneChain(NamedTuple):
    """The chunk of one chain.

    Attributes:
        closed: its program, over placeholders of data, what is prepared of them, and the plan.
        arguments: shapes and dtypes of its arguments, see `chain_program`.
        first: (run key words, plan, number of the chain, position) -> its first `ChainState`.
        noises: (stream, number of transitions) -> their noise.
    """

    closed: Closed
    arguments: tuple[Any, ...]
    first: Callable[..., Any]
    noises: Callable[..., Any]


def capacity_of(target: Target, num_chains: int) -> int:
    """Draws that a chunk holds per chain: at most 512, and at most 128 MiB of them.

    Where sites are split, as many as one device would hold: what splitting saves is not filled up again.
    """
    shares = target.layout.whole.dim / target.layout.dim if target.layout.parts else 1
    size = target.layout.dim * jnp.dtype(target.layout.dtype).itemsize + sum(_bytes(spec) for spec in target.shapes) + 64
    return max(1, min(_MAX_CAPACITY, int(_MAX_CHUNK_BYTES // (shares * size * num_chains))))


def batch(
    target: Target, transition: Transition, num_chains: int, capacity: int, plan: Plan, met: Callable[[Any], Any] | None = None
) -> Sampler:
    """Batches the chains of a run.

    Args:
        target: the traced density.
        transition: the kernel's static part.
        num_chains: number of chains.
        capacity: draws that a chunk holds per chain.
        plan: of the run; only shapes and dtypes count.
        met: see `build_machine`.
    """
    chain = one_chain(target, transition, capacity, plan)
    closed, arguments, first, noises = chain
    buffer = arguments[4]

    def begin(run_key, plan, start, first_chain=0):
        chains = jnp.arange(start.shape[0], dtype=jnp.uint32) + jnp.uint32(first_chain)
        return jax.vmap(first, in_axes=(None, None, 0, 0))(run_key, plan, chains, start)

    def machine(data, plan) -> Machine:
        return build_machine(closed.over((data, target.prepare(data), plan)), met=met)

    def enter(data, plan, begin, state, fresh, until):
        # As many for every chain: a loop whose length differed by chain would go over all of the noise in every turn.
        number = (until - state.stream.counter.astype(jnp.int32)).max()
        noise = jax.vmap(noises, in_axes=(0, None))(state.stream, number)
        every = jnp.broadcast_to(fresh, num_chains), noise, _for_all(buffer, num_chains), jnp.broadcast_to(until, num_chains)
        return machine(data, plan).start(jax.tree.leaves((begin, state, *every))), jnp.int32(0)

    def advance(running, data, plan, turns, leave):
        made, (state, before) = machine(data, plan), running
        state, turned = made.advance_counted(state, max_ticks=turns, leave=leave)
        ticks = before + turned * made.schedule.unroll
        chain_state, _ = closed.finish(made.results(state))
        transitions = chain_state.stream.counter.astype(jnp.float32).mean()
        return (state, ticks), Report((~made.halted(state)).sum(dtype=jnp.int32), ticks, transitions)

    def leave(running, data, plan):
        chain_state, kept = closed.finish(machine(data, plan).results(running[0]))
        draws = read_buffer(kept.draws, target.layout.dim, transition.stats)
        return Chunk(chain_state, kept._replace(draws=()), draws.stats, _constrain(target, data, draws.position, kept.count))

    def stop(running):
        state, ticks = running
        return build_machine(closed.program).rewrite(state, len(jax.tree.leaves(arguments)) - 1, jnp.int32(0)), ticks

    return Sampler(begin, enter, advance, leave, stop)


def one_chain(target: Target, transition: Transition, capacity: int, plan: Plan) -> OneChain:
    """The chunk of one chain, compiled; see `batch`."""
    dtype = jnp.dtype(target.layout.dtype)
    buffer = buffer_for(capacity, target.layout.dim, dtype, transition.stats)
    zeros = jnp.zeros((target.layout.dim,), dtype)
    words = jnp.zeros(2, jnp.uint32)
    searches = jax.eval_shape(transition.start, plan, zeros) is None

    def first(run_key, plan, chain, start):
        nothing = jnp.zeros((), dtype), zeros if transition.uses_gradient else zeros[:0], ()
        log_density, gradient, auxiliary = transition.start(plan, start) or nothing
        return start_chain((log_density, gradient), start, stream_for(run_key, chain), plan.tuning, auxiliary)

    def make(world):
        data, prepared, plan = world
        return chain_program(
            lambda position: target.value_and_grad(data, prepared, position),
            lambda words, fixed: target.initial(data, words, fixed),
            transition,
            plan,
            searches,
        )

    def noises(stream, number):
        return pool(lambda stream: transition.noise(stream, zeros), stream, capacity, number)

    fixed = {name: jax.ShapeDtypeStruct(value.shape[1:], value.dtype) for name, value in target.fixed.items()}
    begins = Begin(jax.ShapeDtypeStruct((), bool), fixed)
    state = jax.eval_shape(first, words, plan, jnp.uint32(0), zeros)
    noise = jax.eval_shape(noises, state.stream, jnp.int32(0))
    arguments = (begins, state, jnp.bool_(False), noise, buffer, jnp.int32(0))
    world = jax.eval_shape(lambda data, plan: (data, target.prepare(data), plan), target.data, plan)
    closed = close(make, world, lambda program: compile_program(program, *arguments))
    return OneChain(closed, arguments, first, noises)


def _for_all(tree, num_chains):
    return jax.tree.map(lambda leaf: jnp.zeros((num_chains, *leaf.shape), leaf.dtype), tree)


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
