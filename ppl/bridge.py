"""From statements to sites: one handler at the bottom of NumPyro's stack.

`lc.sample` and `numpyro.sample` send the same message up the same stack of handlers, so plates, `mask`, `scale`, `scope`, `condition`
and `reparam` have done their work when the message arrives here. What arrives becomes one equation of the model's jaxpr. What a model
may not contain (params, subsampling, keys) is refused here, by name; params that a module sets up and gives priors pass (`module_params`).
"""

import functools
import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

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
from .module_params import ModuleParams
from .precision import warn_of_lost_precision
from .primitives import bind_site
from .spec import Plate, Spec, distribution_name, is_array, peel, split_distribution

__all__ = ["Bridge", "current_bridge", "trace_context"]

_LATENT_PART = "_unobserved"

# Names the trace in progress to JAX's caches; () outside.
trace_context = jax.make_user_context(())

_one_at_a_time = threading.RLock()  # NumPyro has one stack of handlers for all threads

_REFUSED = {
    "param": "`numpyro.param` is for optimisation and a posterior has none; give it a prior with `sample`, and "
    "the weights of a network with `lc.random_module`",
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
        self.steps: tuple[tuple[Any, int], ...] = ()  # the numpyro.contrib.control_flow.scans around: index of the step, and their number
        self.backwards = False  # whether one of them runs from its end
        self.masked: tuple[str, Distribution] | None = None  # the last observed site that NumPyro's `obs_mask` may have made
        self.coords: dict[str, list[Any]] = {}  # coordinates of the plates met so far, by the plates' names
        self.shared: list[str] = []  # sites to which a handler gives more axes than their distributions have
        self.announced: list[Any] | None = None  # coordinates of the plate that is about to send its message
        self.modules = ModuleParams()

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
        if kind in _REFUSED and not self.modules.admits(msg):
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

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "param":
            self.modules.note(msg)

    def _sample(self, msg: dict[str, Any]) -> Any:
        name, dist = msg["name"], msg["fn"]
        if msg["kwargs"].get("sample_shape"):
            dist = dist.expand(msg["kwargs"]["sample_shape"] + dist.batch_shape)
        value = msg["value"]
        given = value if value is None or not self.steps or msg.get("stated") else self._step_of(value, name, dist)
        if isinstance(given, _Begun):
            return self._begun(msg, name, dist, given)
        missing = self._missing(name, dist, value)
        shared = value is not None and given is value and np.ndim(value) > len(dist.shape()) and _from_a_handler(value)
        self.shared += [name] if shared else []
        substituted = given is not None and not msg.get("is_observed")
        return self._site(msg, name, dist, given, missing=missing, substituted=substituted, shared=shared)

    def _site(
        self,
        msg: dict[str, Any],
        name: str,
        dist: Distribution,
        value: Any,
        *,
        missing: Any = None,
        kept: bool = False,
        substituted: bool = False,
        shared: bool = False,
    ) -> Any:
        """Binds one site. missing: the mask of a latent site that imputes, True where it does."""
        warn_of_lost_precision(name, dist, jnp.result_type(float))
        leaves, treedef, static, order = split_distribution(dist, name)
        plates = _plates(msg)
        observed = value is not None
        if observed:
            value = coded(dist, as_array(value, f"site {name!r}: obs"))
            shape = check_shape(name, dist, value, plates)
            if shape != value.shape:
                value = (jnp if isinstance(value, jax.Array) else np).broadcast_to(value, shape)
            check_observation(name, dist, value)
            value, dtype = _wide_enough(value, dist)
        else:
            shape, dtype = dist.shape(), _dtype(dist)
        scale = msg["scale"]
        beside = [value] if observed else [] if missing is None else [_broadcast(missing, dist.batch_shape)]
        operands = [*leaves, *beside, *([scale] if is_array(scale) else [])]
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
            imputed=missing is not None,
            kept=kept,
            substituted=substituted,
            shared=shared,
        )
        return bind_site(spec, operands)

    def _step_of(self, value: Any, name: str, dist: Distribution) -> "Any | _Begun":
        """One step of what a handler around contrib scans gives to a site inside: a value for every step, or one for all."""
        shape, own, lengths = np.shape(value), tuple(dist.shape()), tuple(n for _, n in self.steps)
        if len(shape) <= len(own):
            return value
        if len(shape) != len(own) + len(lengths) or shape[1 : len(lengths)] != lengths[1:] or shape[0] > lengths[0]:
            raise ModelError(
                f"site {name!r}: a handler around a `scan` of {lengths[0]} steps gives it a value of shape {shape}; expected one for every "
                f"step, {(*lengths, *own)}, or for the first of them, to leave the others open. Cut the series, or make the scan longer."
            )
        value, index = jnp.asarray(value), tuple(i for i, _ in self.steps)
        if shape[0] == lengths[0]:
            return value[index]
        if self.backwards:
            raise ModelError(
                f"site {name!r}: a handler gives it {shape[0]} of {lengths[0]} steps of a `scan` with reverse=True, where the first "
                "elements come last. Give all of them, or reverse the series and scan forwards."
            )
        return _Begun(value[(jnp.minimum(index[0], shape[0] - 1), *index[1:])] if shape[0] else None, index[0] < shape[0])

    def _begun(self, msg: dict[str, Any], name: str, dist: Distribution, begun: "_Begun") -> Any:
        """A site with a series that ends before its loop: given as long as it lasts, latent from there. See `missing`."""
        drawn = self._site(msg, f"{name}_unobserved", dist.mask(~begun.lasts), None, missing=~begun.lasts)
        if begun.value is None:
            value = drawn
        else:
            observed = self._site(msg, f"{name}_observed", dist.mask(begun.lasts), begun.value, kept=True)
            value = jnp.where(begun.lasts, observed, drawn)
        return _deterministic({**msg, "value": value})

    def _missing(self, name: str, dist: Distribution, value: Any) -> Any:
        """The mask of what is missing, if the site is the second of the two that `obs_mask` makes: known by name, kind and mask."""
        first, self.masked = self.masked, None
        innermost = _PYRO_STACK[-1]
        if not isinstance(innermost, handlers.mask) or not is_array(innermost.mask):
            return None
        base = peel(dist)[0]
        if value is not None:
            self.masked = (name, base)
        elif first is not None and name.endswith(_LATENT_PART):
            same = first[0] == name.removesuffix(_LATENT_PART) + "_observed" and type(first[1]) is type(base)
            return innermost.mask if same else None
        return None

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
            outer, self.steps = self.steps, (*self.steps, (x[0], length))
            backwards, self.backwards = self.backwards, self.backwards or reverse
            try:
                with _Stated():
                    carried, results = body(carry, x[1])
                    return _as_before(carried, carry), results
            finally:
                self.steps, self.backwards = outer, backwards

        carry, ys = lax.scan(step, init, (jnp.arange(length), xs), length=length, reverse=reverse)
        return (length, None, carry), (PytreeTrace({}), ys)


def _as_before(carried: Any, carry: Any) -> Any:
    """A loop's carry with the integer widths that it came in with: draws of labels may be wider than the zeros that a user starts from."""

    def one(after: Any, before: Any) -> Any:
        kinds = [jnp.result_type(x) for x in (after, before)]
        narrow = all(jnp.issubdtype(k, jnp.signedinteger) for k in kinds) and kinds[0] != kinds[1]
        return jnp.asarray(after, kinds[1]) if narrow else after

    return jax.tree.map(one, carried, carry) if jax.tree.structure(carried) == jax.tree.structure(carry) else carried


class _Begun(NamedTuple):
    """One step of a series that is shorter than its loop: its value there (None if it has none), and whether it lasts."""

    value: Any
    lasts: Any


class _Stated(Messenger):
    """Notes, around the body of a loop, which values came from inside it: one step's, where a handler around the loop gives a series."""

    def process_message(self, msg: dict[str, Any]) -> None:
        msg.setdefault("stated", msg["value"] is not None)


def current_bridge() -> "Bridge | None":
    """The bridge of the trace in progress, if any."""
    return next((h for h in reversed(_PYRO_STACK) if isinstance(h, Bridge)), None)


def _from_a_handler(value: Any) -> bool:
    """Whether a site's value is one of those that `condition` or `substitute` holds, and not its statement's."""
    held = [h.data for h in _PYRO_STACK if isinstance(h, (handlers.condition, handlers.substitute)) and h.data]
    return any(v is value for data in held for v in data.values())


def _broadcast(mask: Any, shape: tuple[int, ...]) -> Any:
    return mask if np.shape(mask) == shape else (jnp if isinstance(mask, jax.Array) else np).broadcast_to(mask, shape)


def _dtype(dist: Distribution) -> Any:
    """The dtype of a draw. What is continuous has the default float; what is discrete is asked."""
    if dist.support is None or not dist.support.is_discrete:
        return jnp.result_type(float)
    return jax.eval_shape(lambda: dist.sample(jax.random.key(0))).dtype


def _wide_enough(value: Any, dist: Distribution) -> tuple[Any, Any]:
    """An observation, and its dtype: counts of fewer bits than draws have in the dtype of draws, which need not be as small."""
    if np.issubdtype(value.dtype, np.integer) and value.dtype.itemsize < 4:
        drawn = _dtype(dist)
        value = value.astype(drawn if np.issubdtype(drawn, np.integer) else np.int32)
    return value, value.dtype


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
