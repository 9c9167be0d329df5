"""The trajectory of the No-U-Turn sampler, grown one leapfrog at a time by one flat loop.

A trajectory of 2^j states doubles, forwards or backwards in time, by a sub-tree of 2^j new leaves, until its ends turn towards
each other, the energy diverges or a largest depth is reached. A state is chosen on the way: within a sub-tree each leaf with
probability proportional to exp(-energy), between the tree and a new sub-tree with a bias towards the new one. With the sum rho of
the momenta over a (sub-)tree with outer momenta p-, p+, it turns when

    (rho - (p- + p+) / 2) . S p-  <= 0   or   (rho - (p- + p+) / 2) . S p+  <= 0.

Every balanced sub-tree is checked, not the whole only: without that the choice is not reversible. Recursion is not needed: leaf n
of a sub-tree closes as many sub-trees as n ends in one-bits, and their left ends are still on a short stack, because a sub-tree
that starts at leaf m is open as long as its index among the one-bits of m is. The stack holds `max_depth` rows.

Leaf by leaf, the loop's body calls the gradient at one site. It never waits for a sub-tree's end: what happens when a doubling starts
or ends is computed every time and kept when it applies. A finished member of a batch keeps running (see `lanes`), so only what is
read afterwards is guarded by `live`, and the position that the density is asked for.

Sources: Hoffman & Gelman (2014), "The No-U-Turn Sampler"; Betancourt (2017), "A Conceptual Introduction to Hamiltonian Monte
Carlo", appendix A.3.1 and A.3.2 (the choice), A.4.2 (the criterion); Phan, Pradhan & Jankowiak (2019), "Composable effects for
flexible and accelerated probabilistic programming in NumPyro", algorithm 2 (the stack). Deviation from A.4.2: half of the outer
momenta is taken off rho, the trapezoid rule, as Stan and NumPyro do.
"""

from enum import IntEnum
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ..transforms.lanes import any_lane
from ..transforms.streams import Stream, random_bits, uniform
from .integrator import MAX_ENERGY_ERROR, Phase, ValueAndGrad, energy, energy_error, leapfrog
from .metric import Metric, velocity

__all__ = ["MAX_DEPTH", "Choice", "Purpose", "Trajectory", "grow", "turns"]

MAX_DEPTH = 22  # two random numbers per leaf, 2**24 numbers per purpose


class Purpose(IntEnum):
    """The uses of randomness within one transition."""

    MOMENTUM = 1
    DIRECTION = 2
    CHOICE = 3


class Choice(NamedTuple):
    """A state chosen from the trajectory.

    Attributes:
        position, gradient: (dim,).
        log_density: ().
        energy: (). Nats.
    """

    position: jax.Array
    gradient: jax.Array
    log_density: jax.Array
    energy: jax.Array


class Trajectory(NamedTuple):
    """What a finished trajectory leaves.

    Attributes:
        choice: the next state of the chain.
        depth: int32, (). Doublings begun.
        n_steps: int32, (). Leapfrogs taken.
        sum_acceptance: (). Sum of min(1, exp(-energy error)) over the leaves.
        diverging: bool, ().
    """

    choice: Choice
    depth: jax.Array
    n_steps: jax.Array
    sum_acceptance: jax.Array
    diverging: jax.Array


class _Tree(NamedTuple):
    live: jax.Array  # bool: still growing
    front: Phase  # the end that grows
    back: Phase  # the other end
    forward: jax.Array  # bool: the front is the later end
    rho: jax.Array  # (dim,) sum of momenta, without the growing sub-tree
    log_weight: jax.Array  # log of the sum of exp(-energy error), without the growing sub-tree
    sub_rho: jax.Array  # the same two for the growing sub-tree
    sub_log_weight: jax.Array
    sub_choice: Choice
    leaf: jax.Array  # int32: leaves in the growing sub-tree
    momenta: jax.Array  # (max_depth, dim) stack: momentum at the left end of each open sub-tree
    rhos: jax.Array  # (max_depth, dim) stack: sub_rho up to and including that leaf
    result: Trajectory


def grow(
    value_and_grad: ValueAndGrad,
    metric: Metric,
    step_size: jax.Array,
    stream: Stream,
    start: Phase,
    log_density: jax.Array,
    max_depth: int,
) -> Trajectory:
    """Grows one trajectory.

    Args:
        value_and_grad: the log density and its gradient.
        metric, step_size: of the leapfrog; step_size has shape () and is positive.
        stream: the randomness of this transition.
        start: the chain's position with a fresh momentum.
        log_density: (). At the start.
        max_depth: largest number of doublings, at most `MAX_DEPTH`; static.
    """
    dtype = start.position.dtype
    start_energy = energy(metric, log_density, start.momentum)
    directions, _ = random_bits(stream, Purpose.DIRECTION)

    def goes_forward(depth):
        return (directions >> depth.astype(directions.dtype)) & 1 == 1

    def body(tree: _Tree) -> _Tree:
        # A doubling that goes the other way swaps the ends first.
        depth = tree.result.depth
        forward = goes_forward(depth)
        swap = forward != tree.forward
        front, back = _where(swap, tree.back, tree.front), _where(swap, tree.front, tree.back)

        # One leaf. A member that is done asks for the density where it is finite, never where a divergence has led.
        def guarded(position):
            return value_and_grad(jnp.where(tree.live, position, tree.result.choice.position))

        front, leaf_log_density = leapfrog(guarded, metric, jnp.where(forward, step_size, -step_size), front)
        leaf_energy = energy(metric, leaf_log_density, front.momentum)
        error = energy_error(leaf_energy, start_energy)
        diverging = error > MAX_ENERGY_ERROR
        choose_leaf, choose_sub = uniform(stream, Purpose.CHOICE, (2,), 2 * tree.result.n_steps, dtype)

        # It joins the sub-tree: chosen with its share of the sub-tree's weight.
        first = tree.leaf == 0
        sub_log_weight = jnp.logaddexp(jnp.where(first, -jnp.inf, tree.sub_log_weight), -error)
        take_leaf = first | (choose_leaf < jnp.exp(-error - sub_log_weight))
        leaf_choice = Choice(front.position, front.gradient, leaf_log_density, leaf_energy)
        sub_choice = _where(take_leaf, leaf_choice, tree.sub_choice)
        sub_rho = jnp.where(first, front.momentum, tree.sub_rho + front.momentum)
        momenta, rhos, sub_turns = _close_subtrees(tree, metric, front.momentum, sub_rho)

        # The sub-tree joins the tree when it is full, chosen with probability min(1, its weight / the tree's).
        broken = diverging | sub_turns
        full = tree.leaf + 1 == lax.shift_left(jnp.int32(1), depth)
        joined = full & ~broken
        take_sub = tree.live & joined & (choose_sub < jnp.exp(sub_log_weight - tree.log_weight))
        rho = jnp.where(joined, tree.rho + sub_rho, tree.rho)
        log_weight = jnp.where(joined, jnp.logaddexp(tree.log_weight, sub_log_weight), tree.log_weight)
        ends = full | broken
        stops = broken | (ends & (turns(metric, front.momentum, back.momentum, rho) | (depth + 1 >= max_depth)))

        old = tree.result
        count = tree.live.astype(jnp.int32)
        acceptance = jnp.minimum(jnp.exp(-error), 1)
        result = Trajectory(
            choice=_where(take_sub, sub_choice, old.choice),
            depth=depth + (tree.live & ends).astype(jnp.int32),
            n_steps=old.n_steps + count,
            sum_acceptance=old.sum_acceptance + jnp.where(tree.live, acceptance, 0),
            diverging=old.diverging | (tree.live & diverging),
        )
        return _Tree(
            live=tree.live & ~stops,
            front=front,
            back=back,
            forward=forward,
            rho=rho,
            log_weight=log_weight,
            sub_rho=sub_rho,
            sub_log_weight=sub_log_weight,
            sub_choice=sub_choice,
            leaf=jnp.where(ends, 0, tree.leaf + 1),
            momenta=momenta,
            rhos=rhos,
            result=result,
        )

    zero = jnp.zeros((), dtype)
    choice = Choice(start.position, start.gradient, log_density, start_energy)
    stack = jnp.zeros((max_depth, start.position.shape[0]), dtype)
    tree = _Tree(
        live=jnp.bool_(True),
        front=start,
        back=start,
        forward=goes_forward(jnp.int32(0)),
        rho=start.momentum,
        log_weight=zero,
        sub_rho=start.momentum,
        sub_log_weight=zero,
        sub_choice=choice,
        leaf=jnp.int32(0),
        momenta=stack,
        rhos=stack,
        result=Trajectory(choice, jnp.int32(0), jnp.int32(0), zero, jnp.bool_(False)),
    )
    return lax.while_loop(lambda tree: any_lane(tree.live), body, tree).result


def _close_subtrees(tree, metric, momentum, sub_rho):
    """Opens a sub-tree at an even leaf; at an odd one checks all that the leaf closes. Returns both stacks and the verdict."""
    leaf = tree.leaf
    # Leaf 13 = 1101b: two one-bits above the last, one trailing one-bit: the sub-tree on row 2 is closed; 15 closes rows 3 to 0.
    row = lax.population_count(leaf >> 1)
    closed = lax.population_count((~leaf & (leaf + 1)) - 1)
    # An odd leaf opens nothing: its row lies outside the stack and the write is dropped, which leaves the stack in place.
    target = jnp.where(leaf % 2 == 0, row, tree.momenta.shape[0])
    momenta = tree.momenta.at[target].set(momentum, mode="drop")
    rhos = tree.rhos.at[target].set(sub_rho, mode="drop")

    def pending(carry):
        row, found = carry
        return tree.live & (row > last) & ~found

    def check(carry):
        row, found = carry
        left, rho_left = momenta[row], rhos[row]
        here = turns(metric, left, momentum, sub_rho - rho_left + left)
        return row - 1, found | (here & pending(carry))

    last = row - closed
    _, found = lax.while_loop(lambda carry: any_lane(pending(carry)), check, (row, jnp.bool_(False)))
    return momenta, rhos, found


def turns(metric, p_one, p_other, rho):
    """The generalised criterion for a tree with outer momenta `p_one` and `p_other`, in either order."""
    chord = velocity(metric, rho - 0.5 * (p_one + p_other))
    return (jnp.vdot(chord, p_one) <= 0) | (jnp.vdot(chord, p_other) <= 0)


def _where(predicate, if_true, if_false):
    return jax.tree.map(lambda a, b: jnp.where(predicate, a, b), if_true, if_false)
