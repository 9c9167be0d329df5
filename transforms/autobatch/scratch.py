"""Room that a program writes before it reads: nobody has to fill it first.

An array of zeros as working space is filled for every member that starts on it, at every tick. `scratch` gives the room alone: in plain
Python zeros, in a compiled program whatever the register holds.
"""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray

from ..equations import prune_jaxpr
from ..jax_compat import Primitive, define_lowering
from .ir import Block, Program

__all__ = ["leave_scratch", "scratch"]

scratch_p = Primitive("scratch")
scratch_p.multiple_results = True
scratch_p.def_impl(lambda *, shape, dtype: [jnp.zeros(shape, dtype)])
scratch_p.def_abstract_eval(lambda *, shape, dtype: [ShapedArray(shape, dtype)])
define_lowering(scratch_p, lambda *, shape, dtype: [jnp.zeros(shape, dtype)])


def scratch(shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """An array whose entries may be anything until they are written; a program must not read one before.

    Args:
        shape, dtype: of the array.
    """
    return scratch_p.bind(shape=tuple(shape), dtype=np.dtype(dtype))[0]


def leave_scratch(program: Program) -> Program:
    """The program without writes of `scratch`, so that registers keep what they hold.

    What it then means is no longer what `interpret` says: a slot may be read that nothing has written.
    """
    functions = {
        name: replace(f, blocks={key: _without(block) for key, block in f.blocks.items()}) for name, f in program.functions.items()
    }
    return replace(program, functions=functions)


def _without(block: Block) -> Block:
    made = {var for eqn in block.jaxpr.eqns if eqn.primitive is scratch_p for var in eqn.outvars}
    kept = [n for n, var in enumerate(block.jaxpr.outvars) if getattr(var, "val", None) is not None or var not in made]
    if len(kept) == len(block.writes):
        return block
    jaxpr, consts, inputs = prune_jaxpr(block.jaxpr, block.consts, [block.jaxpr.outvars[n] for n in kept])
    return replace(
        block,
        jaxpr=jaxpr,
        consts=tuple(consts),
        reads=tuple(block.reads[n] for n in inputs),
        writes=tuple(block.writes[n] for n in kept),
    )
