"""From statements to sites: one handler at the bottom of NumPyro's stack.

`lc.sample` and `numpyro.sample` send the same message up the same stack of handlers, so plates, `mask`, `scale`, `scope`, `condition`
and `reparam` have done their work when the message arrives here. What arrives becomes one equation of the model's jaxpr. What a model
may not contain (params, subsampling, keys) is refused here, by name.
"""

import functools
import threading
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from numpyro import handlers
from numpyro.contrib.control_flow.cond import cond_wrapper
from numpyro.contrib.control_flow.scan import scan_wrapper
from numpyro.distributions import Distribution, Unit, biject_to, constraints
from numpyro.ops.pytree import PytreeTrace
from numpyro.primitives import _PYRO_STACK, Messenger

from ..transforms import ModelError
from .checks import check_observation, check_shape, coded
from .gate import as_array
from .precision import warn_of_lost_precision
from .primitives import bind_site
from .spec import Plate, Spec, distribution_name, is_array, peel, split_distribution

__all__ = ["Bridge", "current_bridge", "trace_context"]

# Names the trace in progress to JAX's caches; () outside.
trace_context = jax.make_user_context(())

_one_at_a_time = threading.RLock()  # NumPyro has one stack of handlers for all threads

_REFUSED = {
    "param": "`numpyro.param` is for optimisation and a posterior has none; give it a prior with `sample`",
    "mutable": "`numpyro.mutable` carries state from run to run, and a model is a pure function; pass the state as an argument",
    "prng_key": "a model draws only with `sample`; give the random number a distribution and a name (a site that "
    "`handlers.block` hides is drawn by `handlers.seed` around it)",
}


def _validate_outside_the_trace() -> None:
    """NumPyro checks known parameters as a distribution is made, by operations that it has JAX run at once.

    Under the context of a trace each of them would be compiled for this trace alone, and again for the next. So NumPyro's method is
    wrapped, once and for all threads, by one that does nothing but leave that context; the context is each thread's own, and outside of
    a trace there is none to leave.
    """
    validate = Distribution.validate_args

    @functools.wraps(validate)
    def outside(self: Distribution, *args: Any, **kwargs: Any) -> None:
        with trace_context(()):
            validate(self, *args, **kwargs)

    Distribution.validate_args = outside


_validate_outside_the_trace()


class Bridge(Messenger):
    """Turns the messages of one trace into sites, and keeps which plates and coordinates it met."""

    def __init__(self) -> None:
        super().__init__()
        self.step: Any = None  # index of the step inside numpyro.contrib.control_flow.scan, else None
        self.coords: dict[str, list[Any]] = {}  # coordinates of the plates met so far, by the plates' names
        self.announced: list[Any] | None = None  # coordinates of the plate that is about to send its message

    def __enter__(self) -> "Bridge":
        _one_at_a_time.acquire()
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        try:
            super().__exit__(*exception)
        finally:
            _one_at_a_time.release()

    def process_message(self, msg: dict[str, Any]) -> None:
        kind = msg["type"]
        if kind in _REFUSED:
            what = f"site {msg['name']!r}" if msg.get("name") else f"numpyro.{kind}"
            raise ModelError(f"{what}: {_REFUSED[kind]}.")
        if kind == "sample":
            msg["value"] = self._sample(msg)
        elif kind == "deterministic":
            msg["value"] = _deterministic(msg)
        elif kind == "plate":
            _refuse_subsampling(msg)
            if self.announced is not None:
                self.coords[msg["name"]], self.announced = self.announced, None
        elif kind == "control_flow":
            msg["value"] = self._control_flow(msg)

    def _sample(self, msg: dict[str, Any]) -> Any:
        name, dist = msg["name"], msg["fn"]
        if msg["kwargs"].get("sample_shape"):
            dist = dist.expand(msg["kwargs"]["sample_shape"] + dist.batch_shape)
        warn_of_lost_precision(name, dist, jnp.result_type(float))
        leaves, treedef, static, order = split_distribution(dist, name)
        plates = _plates(msg)
        value = self._given(msg, dist)
        observed = value is not None
        if observed:
            value = coded(dist, as_array(value, f"site {name!r}: obs"))
            shape, dtype = check_shape(name, dist, value, plates), value.dtype
            if shape != value.shape:
                value = (jnp if isinstance(value, jax.Array) else np).broadcast_to(value, shape)
            check_observation(name, dist, value)
        else:
            shape, dtype = dist.shape(), _dtype(dist)
        scale = msg["scale"]
        operands = [*leaves, *([value] if observed else []), *([scale] if is_array(scale) else [])]
        unconstrained_shape, unit_jacobian = _unconstrained(dist, shape) if not observed else (None, True)
        spec = Spec(
            name=name,
            kind="factor" if isinstance(peel(dist)[0], Unit) else "sample",
            shape=tuple(shape),
            dtype=dtype,
            distribution=distribution_name(dist),
            treedef=treedef,
            static=static,
            order=order,
            num_leaves=len(leaves),
            observed=observed,
            scale="operand" if is_array(scale) else scale,
            event_dim=dist.event_dim,
            plates=plates,
            discrete=bool(dist.support is not None and dist.support.is_discrete),
            unconstrained_shape=unconstrained_shape,
            unit_jacobian=unit_jacobian,
            support=_printable(dist.support),
        )
        return bind_site(spec, operands)

    def _given(self, msg: dict[str, Any], dist: Distribution) -> Any:
        """The value that the statement or a handler gives to the site, if any; one step of it inside a contrib scan."""
        value = msg["value"]
        if value is not None and not msg.get("stated") and self.step is not None and np.ndim(value) == len(dist.shape()) + 1:
            return jnp.asarray(value)[self.step]
        return value

    def _control_flow(self, msg: dict[str, Any]) -> Any:
        """NumPyro's own scan and cond, as the plain `lax` ones: the sites inside are found in the jaxpr.

        A handler around the loop acts on each step here, and on the stacked steps in NumPyro; where the two could differ, refuse.
        """
        for handler in _PYRO_STACK:
            if isinstance(handler, (handlers.mask, handlers.scale)):
                array = handler.mask if isinstance(handler, handlers.mask) else handler.scale
                shape = jnp.shape(1.0 if array is None else array)
                if shape:
                    raise ModelError(
                        f"handlers.{type(handler).__name__} with an array of shape {shape} stands around a "
                        "numpyro.contrib.control_flow statement. Put it inside the body, and scan over the array."
                    )
        if msg["fn"] is cond_wrapper:
            pred, true_fun, false_fun, operand = msg["args"]
            return lax.cond(pred, true_fun, false_fun, operand), PytreeTrace({})
        if msg["fn"] is not scan_wrapper:
            raise ModelError(f"control flow by {msg['fn']} is not known here; use jax.lax.scan or jax.lax.cond.")
        body, init, xs, length, reverse = msg["args"]
        length = length if length is not None else jax.tree.leaves(xs)[0].shape[0]

        def step(carry: Any, x: Any) -> Any:
            outer, self.step = self.step, x[0]
            try:
                with _Stated():
                    return body(carry, x[1])
            finally:
                self.step = outer

        carry, ys = lax.scan(step, init, (jnp.arange(length), xs), length=length, reverse=reverse)
        return (length, None, carry), (PytreeTrace({}), ys)


class _Stated(Messenger):
    """Notes, around the body of a loop, which values came from inside it: one step's, where a handler around the loop gives a series."""

    def process_message(self, msg: dict[str, Any]) -> None:
        msg.setdefault("stated", msg["value"] is not None)


def current_bridge() -> "Bridge | None":
    """The bridge of the trace in progress, if any."""
    return next((h for h in reversed(_PYRO_STACK) if isinstance(h, Bridge)), None)


def _dtype(dist: Distribution) -> Any:
    """The dtype of a draw. What is continuous has the default float; what is discrete is asked."""
    if dist.support is None or not dist.support.is_discrete:
        return jnp.result_type(float)
    return jax.eval_shape(lambda: dist.sample(jax.random.key(0))).dtype


def _deterministic(msg: dict[str, Any]) -> Any:
    name = msg["name"]
    value = as_array(msg["value"], f"site {name!r}: value")
    spec = Spec(name=name, kind="deterministic", shape=np.shape(value), dtype=value.dtype, plates=_plates(msg))
    return bind_site(spec, [value])


def _plates(msg: dict[str, Any]) -> tuple[Plate, ...]:
    frames = {f.dim: f for f in msg.get("cond_indep_stack", ())}
    return tuple(Plate(f.name, f.size, f.dim) for _, f in sorted(frames.items(), reverse=True))


def _refuse_subsampling(msg: dict[str, Any]) -> None:
    size, subsample_size = msg["args"]
    if subsample_size is not None and subsample_size != size:
        raise ModelError(
            f"plate {msg['name']!r} subsamples {subsample_size} of {size}. Subsampling inside a Markov chain silently samples another "
            "posterior; remove `subsample_size` and give the whole data."
        )


def _unconstrained(dist: Distribution, shape: Sequence[int]) -> tuple[tuple[int, ...] | None, bool]:
    """(shape of the unconstrained value, is the bijection the identity); (None, ...) where there is no bijection."""
    support = dist.support
    if support is None or support.is_discrete:
        return None, True
    try:
        bijection = biject_to(support)
    except NotImplementedError:
        return None, True
    base = support
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    return tuple(bijection.inverse_shape(tuple(shape))), base is constraints.real


def _printable(support: Any) -> Any:
    """The support without the values of latent parameters, which must not leave the trace."""
    return jax.tree.map(lambda x: jax.typeof(x) if isinstance(x, Tracer) else x, support)
