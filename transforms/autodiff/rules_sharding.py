"""`shard_map` and the collectives inside it.

The linear program of a `shard_map` is one; residuals leave it stacked along the mesh axes over which they vary, one block
per device, and operands that are residuals are passed again with the layout they had. Inside, a cotangent of a value that
is the same on all devices is summed over them: by the transposes of `pvary` and `psum` where JAX checks the variation
(`check_vma=True`), at the boundary where it does not.

Source: the convention for unchecked maps (cotangents of replicated results divided by the number of copies, those of
replicated operands summed) is JAX's, so that derivatives agree.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax import lax
from jax.core import eval_jaxpr
from jax.sharding import PartitionSpec

from ..jax_compat import Literal, bind, open_jaxpr, varying_axes
from .activity import active_outputs
from .core import Unknown, push_forward, read
from .loop_bodies import SplitBody, chosen, omitted, split_body, spread
from .registry import forwards, linearizes, transposes
from .transpose import backward_dense, instantiate_all


def _map(eqn: Any, function: Any, in_specs: Any, out_specs: Any) -> Any:
    p = eqn.params
    axes = p.get("newly_manual_axes", p.get("manual_axes"))
    return jax.shard_map(function, mesh=p["mesh"], in_specs=in_specs, out_specs=out_specs, check_vma=p["check_vma"], axis_names=set(axes))


def _axes(eqn: Any) -> tuple[str, ...]:
    manual = eqn.params.get("newly_manual_axes", eqn.params.get("manual_axes"))
    return tuple(a for a in eqn.params["mesh"].axis_names if a in manual)


def _unmentioned(eqn: Any, spec: Any) -> tuple[str, ...]:
    named = {a for entry in spec if entry is not None for a in (entry if isinstance(entry, tuple) else (entry,))}
    return tuple(a for a in _axes(eqn) if a not in named)


@forwards("shard_map")
def forward_shard_map(eqn: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """A map of values and tangents together."""
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    active = [t is not None for t in tangents]
    out_active = active_outputs(jaxpr, active)
    in_specs, out_specs = eqn.params["in_specs"], eqn.params["out_specs"]

    def forward(values: Any, moving: Any) -> Any:
        outs, out_ts = push_forward(jaxpr, consts, values, spread(moving, active))
        return outs, instantiate_all(out_ts, jaxpr.outvars, out_active)

    specs = (list(in_specs), chosen(in_specs, active)), (list(out_specs), chosen(out_specs, out_active))
    outs, moved = _map(eqn, forward, *specs)(list(primals), chosen(tangents, active))
    return outs, spread(moved, out_active)


@linearizes("shard_map")
def linearize_shard_map(eqn: Any, active: Sequence[bool], *primals: Any) -> Any:
    """See the module."""
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    out_active = active_outputs(jaxpr, active)
    in_specs, out_specs = list(eqn.params["in_specs"]), list(eqn.params["out_specs"])
    body = _split_inside(eqn, jaxpr, consts, active, out_active, primals)
    operands = dict(zip(body.known.invars, range(len(primals)), strict=True))
    atoms = list(dict.fromkeys(x for x in body.residual_atoms if not isinstance(x, Literal)))
    stored = [x for x in atoms if x not in operands]
    given = [x for x in atoms if x in operands]
    stored_specs = [_block_spec(eqn, x.aval) for x in stored]

    def known(*values: Any) -> Any:
        outs = eval_jaxpr(body.known, body.consts, *values)
        made = {x: v for x, v in zip(body.residual_atoms, outs[body.num_out :], strict=True) if not isinstance(x, Literal)}
        return outs[: body.num_out], [lax.expand_dims(made[x], (0,)) for x in stored]

    outs, kept = _map(eqn, known, tuple(in_specs), (out_specs, stored_specs))(*primals)
    passed = [primals[operands[x]] for x in given]
    specs = (stored_specs, [in_specs[operands[x]] for x in given], chosen(in_specs, active))

    def run(kept: Any, passed: Any, moving: Any) -> Any:
        values = {
            **{x: lax.squeeze(v, (0,)) for x, v in zip(stored, kept, strict=True)},
            **dict(zip(given, passed, strict=True)),
        }
        residuals = [read(values, x) for x in body.residual_atoms]
        return eval_jaxpr(body.linear.jaxpr, residuals, *moving)

    def linear(ts: Sequence[Any]) -> list[Any]:
        return spread(_map(eqn, run, specs, chosen(out_specs, out_active))(kept, passed, chosen(ts, active)), out_active)

    return outs, linear, out_active


def _split_inside(
    eqn: Any, jaxpr: Any, consts: Any, active: Sequence[bool], out_active: Sequence[bool], primals: Sequence[Any]
) -> SplitBody:
    """The body split where its mesh axes have names: inside a map that is traced for this purpose and thrown away."""
    box: list[SplitBody] = []

    def look(*values: Any) -> Any:
        box.append(split_body(jaxpr, consts, active, out_active))
        return list(eval_jaxpr(jaxpr, consts, *values))

    jax.make_jaxpr(_map(eqn, look, tuple(eqn.params["in_specs"]), list(eqn.params["out_specs"])))(*primals)
    return box[-1]


def _block_spec(eqn: Any, aval: Any) -> PartitionSpec:
    """Layout of a residual that leaves the map with a new leading axis: one block for each device over which it may differ."""
    varying = varying_axes(aval) if eqn.params["check_vma"] else set(_axes(eqn))
    axes = tuple(a for a in _axes(eqn) if a in varying)
    return PartitionSpec(axes) if axes else PartitionSpec()


@transposes("shard_map")
def transpose_shard_map(eqn: Any, cotangents: Sequence[Any], *operands: Any) -> Any:
    """The transposed body under the same mesh."""
    jaxpr, consts = open_jaxpr(eqn.params["jaxpr"])
    in_specs, out_specs, checked = list(eqn.params["in_specs"]), list(eqn.params["out_specs"]), eqn.params["check_vma"]
    size = dict(eqn.params["mesh"].shape)
    unknown = [isinstance(x, Unknown) for x in operands]
    arriving = instantiate_all(cotangents, eqn.outvars)

    def run(known: Any, cts: Any) -> Any:
        if not checked:
            copies = [math.prod(size[a] for a in _unmentioned(eqn, s)) for s in out_specs]
            cts = [ct if n == 1 else ct / n for ct, n in zip(cts, copies, strict=True)]
        dense = backward_dense(jaxpr, consts, unknown, known, cts)
        if not checked:
            axes = [_unmentioned(eqn, s) for s in chosen(in_specs, unknown)]
            dense = [lax.psum(ct, a) if a else ct for ct, a in zip(dense, axes, strict=True)]
        return dense

    specs = (omitted(in_specs, unknown), out_specs)
    return spread(_map(eqn, run, specs, chosen(in_specs, unknown))(omitted(operands, unknown), arriving), unknown)


@linearizes("psum", "psum_invariant", "pvary", "ppermute", "all_gather", "reduce_scatter", "all_to_all")
def collective(eqn: Any, active: Sequence[bool], *operands: Any) -> Any:
    """The same communication of the tangents."""
    outs = bind(eqn, operands)
    return (
        outs,
        lambda ts: bind(eqn, instantiate_all(ts, eqn.invars)),
        (True,) * len(outs),
    )


@transposes("psum")
def transpose_sum_over_devices(eqn: Any, cotangents: Sequence[Any], *operands: Any) -> Any:
    """Where variation is not checked, a sum over devices is its own transpose."""
    return bind(eqn, instantiate_all(cotangents, eqn.outvars))


@transposes("psum_invariant")
def transpose_checked_sum(eqn: Any, cotangents: Sequence[Any], x: Any) -> Any:
    """Every device receives the cotangent of the sum."""
    return [lax.pcast(cotangents[0], eqn.params["axes"], to="varying")]


@transposes("pvary")
def transpose_copies(eqn: Any, cotangents: Sequence[Any], x: Any) -> Any:
    """A value that was the same on all devices receives the sum of what they return."""
    return [lax.psum(cotangents[0], eqn.params["axes"])]
