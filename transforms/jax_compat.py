"""The only file that touches JAX's semi-private corners; each entry says what it serves and on which versions.

Supported: jax 0.10 to 0.12. `tests/transforms/test_jax_compat.py` exercises every entry on both ends of the range.
"""

import contextlib
import inspect
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from jax._src import config as _config  # 0.10-0.12: the cache's settings have no public context managers
from jax._src import core as _core  # 0.10-0.12: no public way to ask whether a transformation is in progress
from jax._src import effects as _effects  # 0.10-0.12: no public way to declare an effect harmless
from jax._src import source_info_util as _source_info  # 0.10-0.12: no public way to read an equation's frames
from jax.experimental.compilation_cache import compilation_cache as _compilation_cache
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, Var
from jax.extend.random import define_prng_impl
from jax.interpreters import ad as _ad
from jax.interpreters import batching as _batching
from jax.interpreters import mlir as _mlir
from jax.interpreters import partial_eval as _partial_eval
from jaxlib.mlir import ir as _ir  # 0.10-0.12

__all__ = [
    "ClosedJaxpr",
    "Jaxpr",
    "JaxprEqn",
    "Literal",
    "Primitive",
    "Var",
    "acts",
    "assemble_jaxpr",
    "bind",
    "context_values",
    "declare_effect",
    "define_batching",
    "define_jvp",
    "define_lowering",
    "define_prng_impl",
    "define_result",
    "define_transpose",
    "equation_context",
    "function_of_jax",
    "instantiate_tangents",
    "live_jaxpr",
    "lowered_operations",
    "made_by",
    "named_axes",
    "open_jaxpr",
    "persistent_cache",
    "scan_layout",
    "subjaxprs",
    "transforming",
    "user_frames",
    "varying_axes",
    "varying_like",
    "written_out",
]


def acts(eqn: JaxprEqn) -> bool:
    """Whether an equation does more than compute; a collective, whose effect is the name of its axis, does not (0.10-0.12)."""
    return any(not isinstance(effect, _core.NamedAxisEffect) for effect in eqn.effects)


def bind(eqn: JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Evaluate one equation on `operands`; always returns a list. Serves 0.10-0.12 (`get_bind_params` is not public)."""
    outs = eqn.primitive.bind(*operands, **eqn.primitive.get_bind_params(eqn.params))
    return list(outs) if eqn.primitive.multiple_results else [outs]


def open_jaxpr(jaxpr: Any) -> tuple[Any, list[Any]]:
    """(jaxpr, constants) of a jaxpr or closed jaxpr. 0.10 has two classes, 0.12 one; remat carries an open one."""
    return getattr(jaxpr, "jaxpr", jaxpr), list(getattr(jaxpr, "consts", ()))


_JAX_FOLDER = os.path.dirname(os.path.abspath(jax.__file__))
_CONSTS_ATTACHED = "consts" in inspect.signature(Jaxpr.__init__).parameters


def assemble_jaxpr(
    like: Any, consts: dict[Var, Any], invars: Sequence[Var], outvars: Sequence[Any], eqns: Sequence[JaxprEqn]
) -> tuple[Any, list[Any]]:  # fmt: skip
    """(jaxpr, constants), as `open_jaxpr` gives them, of equations rewritten by hand; `like` lends its debugging information.

    Serves 0.10-0.12: since 0.12 a jaxpr without its constants attached takes them for inputs.
    """
    attached: dict[str, Any] = {"consts": list(consts.values())} if _CONSTS_ATTACHED and consts else {}
    effects = frozenset().union(*(eqn.effects for eqn in eqns))
    unnamed = like.debug_info.with_unknown_names()
    jaxpr = Jaxpr(list(consts), list(invars), list(outvars), list(eqns), effects=effects, debug_info=unnamed, **attached)
    return jaxpr, list(consts.values())


def live_jaxpr(jaxpr: Any, used: Sequence[bool]) -> tuple[Any, list[bool]]:
    """A closed jaxpr of only the outputs marked in `used`, loops pruned inside as well; and which of its inputs it has kept.

    Serves 0.10-0.12: no public way to drop what a loop carries and no output needs.
    """
    inner, consts = open_jaxpr(jaxpr)
    pruned, kept = _partial_eval.dce_jaxpr(inner, list(used))
    return ClosedJaxpr(pruned, consts), list(kept)


def written_out(eqn: JaxprEqn) -> Any:
    """The jaxpr that an operation of JAX 0.12's new kind (`searchsorted` is one) stands for; None for any other."""
    operation: Any = eqn.params.get("_prim")
    if not hasattr(operation, "expand"):
        return None
    avals: list[Any] = [x.aval for x in eqn.invars]
    operands = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
    return jax.make_jaxpr(lambda *xs: operation.expand(*jax.tree.unflatten(operation.in_tree, xs)))(*operands)


def subjaxprs(eqn: JaxprEqn) -> list[Any]:
    """Every jaxpr among the parameters of an equation, in the order of the parameters' names. Serves 0.10-0.12."""
    found = []
    for _, value in sorted(eqn.params.items()):
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if hasattr(item, "eqns") or hasattr(item, "jaxpr"):
                found.append(item)
    return found


def scan_layout(eqn: JaxprEqn) -> tuple[int, int]:
    """(number of constants, number of carries) of a scan equation.

    0.10 and 0.11 have the parameters `num_consts` and `num_carry`; 0.12 has the trees `ft_in` (constants, carry, xs).
    """
    if "num_consts" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carry, _ = eqn.params["ft_in"].unpack()
    return len(consts), len(carry)


def transforming() -> bool:
    """Whether the caller is being traced or transformed, by jit, vmap, grad or the like. Serves 0.10-0.12."""
    return not _core.trace_state_clean()


def declare_effect(effect_class: type) -> None:
    """Let an effect stand inside control flow, rematerialisation and custom derivatives (but never be lowered)."""
    for allowed in (
        _effects.control_flow_allowed_effects,
        _effects.remat_allowed_effects,
        _effects.custom_derivatives_allowed_effects,
    ):
        allowed.add_type(effect_class)


class Effect(_effects.Effect):
    """Base class for our own effects."""


def define_result(primitive: Primitive, rule: Callable[..., tuple[Any, set[Any]]]) -> None:
    """Give `primitive` its abstract value and effects: rule(*avals, **params) -> (aval, effects). Serves 0.10-0.12."""
    primitive.def_effectful_abstract_eval(rule)


def define_batching(primitive: Primitive, rule: Callable[..., tuple[Any, int | None]]) -> None:
    """Give `primitive` its rule under `vmap`: rule(size, operands, axes, **params) -> (result, axis).

    Unlike JAX's public table the rule is called even when no operand is batched. Serves 0.10-0.12.
    """

    def fancy(axis_data: Any, operands: Sequence[Any], axes: Sequence[int | None], **params: Any) -> Any:
        return rule(axis_data.size, operands, axes, **params)

    _batching.fancy_primitive_batchers[primitive] = fancy


def define_jvp(primitive: Primitive, rule: Callable[..., tuple[Any, Any]]) -> None:
    """Give `primitive` its forward derivative: rule(primals, tangents, **params) -> (result, tangent). Serves 0.10-0.12."""
    _ad.primitive_jvps[primitive] = rule


def user_frames(eqn: JaxprEqn) -> list[tuple[str, int, str]]:
    """(file, line, function) of the frames that created an equation, innermost first, JAX's own left out."""
    return [(f.file_name, f.start_line, f.function_name) for f in _source_info.user_frames(eqn.source_info.traceback)]


def made_by(eqn: JaxprEqn) -> list[str]:
    """The names of JAX's own functions that created an equation, innermost first, up to the first frame of somebody else's."""
    frames = eqn.source_info.traceback.frames if eqn.source_info.traceback is not None else ()
    return [frame.function_name for frame in itertools.takewhile(lambda frame: frame.file_name.startswith(_JAX_FOLDER), frames)]


def function_of_jax(eqn: JaxprEqn) -> str:
    """The name of the function of JAX's own that a `custom_jvp_call` stands for ("logaddexp"); "" for one of somebody else's.

    Serves 0.10-0.12: the equation's parameters do not hold the name, its debugging information does.
    """
    if "call_jaxpr" not in eqn.params:
        return ""
    source = open_jaxpr(eqn.params["call_jaxpr"])[0].debug_info.func_src_info or ""
    name, _, place = source.partition(" at ")
    return name if place.startswith(_JAX_FOLDER) else ""


@contextlib.contextmanager
def equation_context(eqn: JaxprEqn) -> Iterator[None]:
    """Equations traced inside carry the source line, the scope names and the settings of `eqn`. Serves 0.10-0.12.

    The public `jax.core.eval_jaxpr` does the same for equations that it copies; we also write new ones in their place.
    """
    stack = _source_info.current_name_stack() + eqn.source_info.name_stack
    with _source_info.user_context(eqn.source_info.traceback, name_stack=stack), eqn.ctx.manager:
        yield


def context_values(context: Any) -> tuple[tuple[str, Any], ...]:
    """(name, value) of every setting that an equation was traced under, `eqn.ctx`: what `equation_context` restores.

    Serves 0.10-0.12: the class is not public, and 0.12 adds settings (layout mode, collectives) to those of 0.10 (compute type,
    generator of random numbers, mesh, metadata for the compiler).
    """
    names = (name for name in type(context).__slots__ if not name.startswith("_"))
    return tuple((name, getattr(context, name)) for name in names if hasattr(context, name))


def define_transpose(primitive: Primitive, rule: Callable[..., Sequence[Any]]) -> None:
    """Let JAX transpose `primitive`: rule(cotangents, is_linear, operands, **params) -> a cotangent or None per operand.

    Zero cotangents arrive as arrays of zeros; a linear operand is None. Serves 0.10-0.12 (the table is a plain dict in all).
    """

    def transpose(cotangents: Sequence[Any], *operands: Any, **params: Any) -> Sequence[Any]:
        filled = [_ad.instantiate_zeros(ct) for ct in cotangents]
        linear = [_ad.is_undefined_primal(x) for x in operands]
        return rule(filled, linear, [None if u else x for u, x in zip(linear, operands, strict=True)], **params)

    _ad.primitive_transposes[primitive] = transpose


def define_lowering(primitive: Primitive, function: Callable[..., Sequence[Any]]) -> None:
    """Let `primitive` run and compile as `function(*operands, **params)`, a JAX program of many results. Serves 0.10-0.12."""
    primitive.def_impl(function)
    _mlir.register_lowering(primitive, _mlir.lower_fun(function, multiple_results=True))


def instantiate_tangents(primals: Sequence[Any], tangents: Sequence[Any]) -> list[Any]:
    """Tangents as a JAX rule receives them, zeros made explicit; None for those of integers. Serves 0.10-0.12."""
    made = []
    for tangent in tangents:
        dense = _ad.instantiate_zeros(tangent)
        made.append(None if getattr(dense, "dtype", None) == jax.dtypes.float0 else dense)
    return made


def varying_axes(aval: Any) -> frozenset[str]:
    """The mesh axes over which a value inside `shard_map` differs; empty outside. Serves 0.10-0.12 (`vma` was renamed in 0.10)."""
    manual = getattr(aval, "manual_axis_type", None)
    return frozenset(manual.varying) if manual is not None else frozenset(getattr(aval, "vma", None) or ())


def varying_like(value: Any, avals: Sequence[Any]) -> Any:
    """`value`, said to differ over all mesh axes over which values of the types `avals` differ. Serves 0.10-0.12."""
    wanted = frozenset().union(*(varying_axes(aval) for aval in avals)) - varying_axes(jax.typeof(value))
    return jax.lax.pcast(value, tuple(sorted(wanted)), to="varying") if wanted else value


@contextlib.contextmanager
def named_axes(sizes: Mapping[str, int]) -> Iterator[None]:
    """Traces as inside of a `shard_map` over mesh axes of these sizes, without one (0.10-0.12: no public way)."""
    with _core.extend_axis_env_nd(list(sizes.items())):
        yield


def lowered_operations(lowered: Any) -> list[tuple[str, str]]:
    """Name and location of every operation of a lowered program (0.10-0.12: the module has no other reader of locations than MLIR's)."""
    found: list[tuple[str, str]] = []

    def visit(operation: Any) -> Any:
        found.append((operation.name, str(operation.location)))
        return _ir.WalkResult.ADVANCE

    lowered.compiler_ir().operation.walk(visit)
    return found


@contextlib.contextmanager
def persistent_cache(folder: str) -> Iterator[None]:
    """Compilations inside use the persistent cache in `folder`; the process's own settings stay as they are.

    If the process has a cache of its own, that one is used and `folder` is not. JAX keeps one cache object per process, so it
    is reset before (it may have been found switched off) and after. Serves 0.10-0.12 (the settings' context managers are not
    public).
    """
    if _config.compilation_cache_dir.value is not None:
        yield
        return
    with (
        _config.compilation_cache_dir(folder),
        _config.persistent_cache_min_compile_time_secs(0.0),
        _config.persistent_cache_min_entry_size_bytes(-1),
    ):
        _compilation_cache.reset_cache()
        try:
            yield
        finally:
            _compilation_cache.reset_cache()
