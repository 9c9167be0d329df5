"""A question that a program for one member may ask of all members that run beside it.

A loop written for one member stops when that member is done. Under `jax.vmap` it must run until the last one is, and JAX then
guards *every* value the loop carries with a select at every turn, large buffers included. A loop whose predicate is
`any_lane(live)` and whose body leaves a finished member's results alone needs no such guard: alone, `any_lane` is the identity;
under `vmap` it is one scalar for the whole batch, so the loop stays a plain loop.

The price: a finished member keeps running through the body. Whatever its result is must be masked by `live` in the body; what
nobody reads afterwards may become anything. Code of the user's that runs in the body should see sensible values all the same: a
solver that waits for convergence must not be fed what a diverged member has become.
"""

import jax
from jax.custom_batching import custom_vmap

__all__ = ["any_lane"]


@custom_vmap
def any_lane(predicate: jax.Array) -> jax.Array:
    """Whether `predicate` holds for this member or for any that is batched with it.

    Args:
        predicate: bool, shape ().

    Returns:
        bool, shape (); the same for all members of a `vmap`, hence not batched.
    """
    return predicate


@any_lane.def_vmap
def _any_lane_of_batch(axis_size, in_batched, predicate):
    del axis_size
    (batched,) = in_batched
    return any_lane(predicate.any(axis=0) if batched else predicate), False
