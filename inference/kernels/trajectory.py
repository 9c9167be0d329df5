"""The trajectory of the No-U-Turn sampler, for one chain, written twice.

A trajectory of 2^j states doubles, forwards or backwards in time, by a sub-tree of 2^j new leaves, until its ends turn towards
each other, the energy diverges or a largest depth is reached. A state is chosen on the way: within a sub-tree each leaf with
probability proportional to exp(-energy), between the tree and a new sub-tree with a bias towards the new one. With the sum rho of
the momenta over a (sub-)tree with outer momenta p-, p+, it turns when

    (rho - (p- + p+) / 2) . S p-  <= 0   or   (rho - (p- + p+) / 2) . S p+  <= 0.

Every balanced sub-tree is checked, not the whole only: without that the choice is not reversible. `recursive` says it as the
definition does: a sub-tree is two sub-trees of half its size, one after the other, and a check. `iterative` needs no recursion: leaf
n of a sub-tree closes as many sub-trees as n ends in one-bits, and what their first leaves left is still on a short stack, because a
sub-tree that starts at leaf m is open as long as its index among the one-bits of m is. Both walk the same leaves with the same
random numbers and the same arithmetic; a test holds them equal draw for draw.

Sources: Hoffman & Gelman (2014), "The No-U-Turn Sampler", algorithm 3; Betancourt (2017), "A Conceptual Introduction to Hamiltonian
Monte Carlo", appendix A.3.1 and A.3.2 (the choice), A.4.2 (the criterion); Phan, Pradhan & Jankowiak (2019), "Composable effects for
flexible and accelerated probabilistic programming in NumPyro", algorithm 2 (the stack). Deviation from A.4.2: half of the outer
momenta is taken off rho, the trapezoid rule, as Stan and NumPyro do.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ...transforms.autobatch import program, scratch
from ...transforms.streams import Stream, random_bits, uniform
from .coordinates import Per, dots
from .integrator import MAX_ENERGY_ERROR, Phase, energy, energy_error, half_kick_and_drift, kick
from .layout import Layout
from .metric import Metric, velocity
from .purposes import Purpose

__all__ = ["MAX_DEPTH", "Start", "Trajectory", "iterative", "recursive"]

MAX_DEPTH = 22  # two random numbers per leaf, 2**24 numbers per purpose


class Choice(NamedTuple):
    """A state chosen from the trajectory.

    Attributes:
        position, gradient: (dim,).
        log_density, energy: (). Nats.
    """

    position: jax.Array
    gradient: jax.Array
    log_density: jax.Array
    energy: jax.Array


class Start(NamedTuple):
    """Where a trajectory starts, and what stays the same along it.

    Attributes:
        metric, step_size: of the leapfrog; step_size has shape () and is positive.
        stream: the randomness of this transition.
        phase: the chain's position with a fresh momentum.
        log_density, energy: (). Nats.
        auxiliary: what the density takes besides, and hands on.
    """

    metric: Metric
    step_size: jax.Array
    stream: Stream
    phase: Phase
    log_density: jax.Array
    energy: jax.Array
    auxiliary: Any = ()


class Trajectory(NamedTuple):
    """What a finished trajectory leaves.

    Attributes:
        choice: the next state of the chain.
        depth: int32, (). Doublings begun.
        n_steps: int32, (). Leapfrogs taken.
        sum_acceptance: (). Sum of min(1, exp(-energy error)) over the leaves.
        diverging: bool, ().
        auxiliary: what the density handed on last.
    """

    choice: Choice
    depth: jax.Array
    n_steps: jax.Array
    sum_acceptance: jax.Array
    diverging: jax.Array
    auxiliary: Any


class Walk(NamedTuple):
    """A new sub-tree, as far as it has been walked.

    Attributes:
        phase: its newest leaf.
        rho: (dim,). Sum of its momenta.
        log_weight: (). Log of the sum of exp(-energy error).
        choice: the state chosen from it.
        n_steps, sum_acceptance: of the whole trajectory.
        diverging, stops: bool, (). Whether its newest leaf diverged; whether that, or a sub-tree of it that turns, ends the trajectory.
        auxiliary: what the density handed on at it.
    """

    phase: Phase
    rho: jax.Array
    log_weight: jax.Array
    choice: Choice
    n_steps: jax.Array
    sum_acceptance: jax.Array
    diverging: jax.Array
    stops: jax.Array
    auxiliary: Any


def recursive(density, max_depth: int, layout: Layout | None = None):
    """The program Start -> Trajectory.

    Args:
        density: program, (position (dim,), auxiliary) -> (log density (), gradient (dim,), auxiliary).
        max_depth: largest number of doublings, at most `MAX_DEPTH`.
        layout: of the vectors, where they lie split over devices.
    """
    step = _step(density, layout)

    @program
    def subtree(start, step_size, walk, depth):
        """2^depth more leaves, or fewer if it stops; also the momentum of the first of them, and rho when it had joined."""
        if depth == 0:
            walk = step(start, step_size, walk)
            return walk, walk.phase.momentum, walk.rho
        walk, first, rho = subtree(start, step_size, walk, depth - 1)
        if not walk.stops:
            walk, _, _ = subtree(start, step_size, walk, depth - 1)
            if not walk.stops:
                walk = walk._replace(stops=turns(start.metric, first, walk.phase.momentum, walk.rho - rho + first, layout))
        return walk, first, rho

    @program
    def grow(start, step_size, walk, depth):
        walk, _, _ = subtree(start, step_size, walk, depth)
        return walk

    return _doubling(grow, max_depth, layout)


def iterative(density, max_depth: int, layout: Layout | None = None):
    """The same program without recursion; see `recursive`."""
    step = _step(density, layout)

    @program
    def grow(start, step_size, walk, depth):
        firsts = scratch((max_depth, *walk.rho.shape), walk.rho.dtype)
        rhos = scratch((max_depth, *walk.rho.shape), walk.rho.dtype)
        leaf, growing = jnp.int32(0), True  # one leaf at least: said so, no path of a trajectory is without a gradient
        while growing:
            walk = step(start, step_size, walk)
            # Leaf 13 = 1101b: two one-bits above the last, one trailing one-bit: the sub-tree on row 2 is closed; 15 closes rows 3 to 0.
            row = lax.population_count(leaf >> 1)
            if leaf % 2 == 0:
                firsts = firsts.at[row].set(walk.phase.momentum)
                rhos = rhos.at[row].set(walk.rho)
            last = row - lax.population_count((~leaf & (leaf + 1)) - 1)
            while row > last and not walk.stops:
                first = firsts[row]
                turned = turns(start.metric, first, walk.phase.momentum, walk.rho - rhos[row] + first, layout)
                walk = walk._replace(stops=turned)
                row = row - 1
            leaf = leaf + 1
            growing = leaf < lax.shift_left(jnp.int32(1), depth) and not walk.stops
        return walk

    return _doubling(grow, max_depth, layout)


def _step(density, layout):
    @program
    def step(start, step_size, walk):
        """One leaf more: a leapfrog, and the leaf joins the sub-tree, chosen with its share of the sub-tree's weight."""
        phase = half_kick_and_drift(start.metric, step_size, walk.phase)
        log_density, gradient, auxiliary = density(phase.position, walk.auxiliary)
        phase = kick(step_size, phase, gradient)
        new_energy = energy(start.metric, log_density, phase.momentum, layout, Per.GRADIENT)
        error = energy_error(new_energy, start.energy)
        diverging = error > MAX_ENERGY_ERROR
        log_weight = jnp.logaddexp(walk.log_weight, -error)
        # In logarithms: a logarithm is computed once, the twenty rounds of a random number by all that depend on the choice.
        chosen = jnp.log(uniform(start.stream, Purpose.CHOICE, (), 2 * walk.n_steps, error.dtype)) < -error - log_weight
        choice = Choice(phase.position, gradient, log_density, new_energy) if chosen else walk.choice
        acceptance = jnp.minimum(jnp.exp(-error), 1)
        return Walk(
            phase=phase,
            rho=walk.rho + phase.momentum,
            log_weight=log_weight,
            choice=choice,
            n_steps=walk.n_steps + 1,
            sum_acceptance=walk.sum_acceptance + acceptance,
            diverging=diverging,
            stops=diverging,
            auxiliary=auxiliary,
        )

    return step


def _doubling(grow, max_depth, layout):
    @program
    def trajectory(start):
        choice = Choice(start.phase.position, start.phase.gradient, start.log_density, start.energy)
        rho, log_weight = start.phase.momentum, jnp.zeros_like(start.log_density)
        directions, _ = random_bits(start.stream, Purpose.DIRECTION)
        front = back = start.phase
        was_forward = directions & 1 == 1
        no = jnp.bool_(False)
        # What is chosen from a sub-tree is not set: its first leaf is always chosen.
        unset = Choice(*(scratch(one.shape, one.dtype) for one in choice))
        walk = Walk(front, jnp.zeros_like(rho), log_weight, unset, jnp.int32(0), jnp.zeros_like(log_weight), no, no, start.auxiliary)
        depth, going = jnp.int32(0), True
        while going:
            forward = (directions >> depth.astype(directions.dtype)) & 1 == 1
            if forward != was_forward:  # the other end grows
                front, back = back, front
            was_forward = forward
            step_size = start.step_size if forward else -start.step_size
            walk = walk._replace(phase=front, rho=jnp.zeros_like(rho), log_weight=jnp.full_like(log_weight, -jnp.inf))
            walk = grow(start, step_size, walk, depth)
            front = walk.phase
            depth = depth + 1
            going = False
            if not walk.stops:
                # The sub-tree joins the tree, chosen with probability min(1, its weight / the tree's).
                number = jnp.log(uniform(start.stream, Purpose.CHOICE, (), 2 * walk.n_steps - 1, log_weight.dtype))
                choice = walk.choice if number < walk.log_weight - log_weight else choice
                rho = rho + walk.rho
                log_weight = jnp.logaddexp(log_weight, walk.log_weight)
                going = depth < max_depth and not turns(start.metric, front.momentum, back.momentum, rho, layout)
        return Trajectory(choice, depth, walk.n_steps, walk.sum_acceptance, walk.diverging, walk.auxiliary)

    return trajectory


def turns(metric, p_one, p_other, rho, layout=None):
    """The generalised criterion for a tree with outer momenta `p_one` and `p_other`, in either order."""
    chord = velocity(metric, rho - 0.5 * (p_one + p_other))
    one, other = dots(layout, (chord, p_one), (chord, p_other), per=Per.TURN_CHECK)
    return (one <= 0) | (other <= 0)
