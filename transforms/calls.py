"""How users' calls meet our functions: whose argument is whose, and what is said about a word that there is not.

A verb takes a model and, behind its own arguments, those of the model; its own are given by position, so that the model may call its
parameters what it likes. An unknown keyword is an error that says what to write: from a table of words that users of other libraries
type, else the nearest name there is.
"""

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from .errors import KeywordError, SamplerError
from .jax_compat import transforming

__all__ = ["answering", "check_arguments", "fits", "known_parameter", "nearest", "verb"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)

_ALSO = {"key": ("rng_key",), "samples": ("posterior_samples",)}  # NumPyro's names for the same arguments


def verb(write: str, answers: Mapping[str, str] | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Marks a function whose positional-only parameters are our own and whose other arguments are a model's.

    What is missing among our own is taken from the keywords, if it is there, under our name or NumPyro's. For samples a run will do, whose
    draws are taken. A call from inside a function that JAX transforms is refused: what such a verb returns lies in host memory.

    Args:
        write: how the call is written, for errors.
        answers: what is said to keywords that the model does not have.
    """

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters.values()
        own = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
        by_name = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        owner = function.__qualname__

        @functools.wraps(function)
        def called(*args: Any, **kwargs: Any) -> R:
            if transforming():
                raise SamplerError(
                    f"{owner} was called inside a function that jax.jit, jax.vmap, jax.grad or the like runs: it compiles and "
                    "runs programs of its own and returns NumPy arrays. Call it outside; for many data sets write a Python loop, which "
                    "compiles once."
                )
            given = dict(zip(own, args, strict=False))
            for name in own[len(args) :]:
                found = next((word for word in (name, *_ALSO.get(name, ())) if word in kwargs), None)
                if found is None:
                    raise KeywordError(f"{owner}: the argument {name!r} is missing; write {write}.")
                given[name] = kwargs.pop(found)
            if ("key" in given and isinstance(given["key"], Mapping)) or hasattr(given.get("key"), "get_samples"):
                what = type(given["key"]).__name__
                raise KeywordError(f"{owner}: found samples ({what}) where the random key belongs; write {write}.")
            if hasattr(given.get("samples"), "get_samples"):
                given["samples"] = given["samples"].get_samples()
            if "model" in given:
                of_model = {name: value for name, value in kwargs.items() if name not in by_name}
                check_arguments(owner, given["model"], args[len(own) :], of_model, answers or {})
            return function(*given.values(), *args[len(own) :], **kwargs)  # pyright: ignore[reportCallIssue]

        return called

    return mark


def answering(owner: str, answers: Mapping[str, str]) -> Callable[[C], C]:
    """Lets a class answer keywords that its constructor does not have: by the table of answers, else with the nearest name."""

    def mark(made: C) -> C:
        construct = made.__init__
        known = [name for name in inspect.signature(construct).parameters if name != "self"]

        @functools.wraps(construct)
        def checked(self: Any, *args: Any, **kwargs: Any) -> None:
            for name in kwargs:
                if name not in known:
                    raise KeywordError(f"{owner}: there is no argument {name!r}; {_advice(name, known, answers)}")
            construct(self, *args, **kwargs)

        made.__init__ = checked  # pyright: ignore[reportAttributeAccessIssue]
        return made

    return mark


def check_arguments(
    owner: str, model: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], answers: Mapping[str, str]
) -> None:
    """Refuses arguments that a model does not take, or leaves out, before it is traced.

    Raises:
        KeywordError: names the argument, and what to write.
    """
    try:
        signature = inspect.signature(model)
    except (TypeError, ValueError):  # no function: tracing says so
        return
    name = getattr(model, "__name__", type(model).__name__)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as e:
        parameters = signature.parameters.values()
        known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        swallows = any(p.kind is p.VAR_KEYWORD for p in parameters)
        unknown = [word for word in kwargs if word not in known and not swallows]
        if unknown:
            raise KeywordError(
                f"{owner}: the model {name}{signature} has no argument {unknown[0]!r}; {_advice(unknown[0], known, answers)}"
            ) from None
        raise KeywordError(f"{owner}: the arguments do not fit the model {name}{signature}: {e}.") from None


def fits(signature: inspect.Signature, *args: Any, **kwargs: Any) -> bool:
    """Whether a function can be called so."""
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def nearest(name: str, known: Iterable[str]) -> str:
    """The known name that is most like this one, "" if none is."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, 0.6)), "")


def known_parameter(model: Any, name: str) -> str:
    """What is said when one of `run`'s own keywords has a strange value and the model has a parameter of that name."""
    code = getattr(getattr(model, "__wrapped__", model), "__code__", None)
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code else ()
    return f". The model has a parameter {name!r} too: give its value by position, the keyword is run's own" if name in names else ""


def _advice(name: str, known: Sequence[str], answers: Mapping[str, str]) -> str:
    if name in answers:
        return f"{answers[name]}."
    like = nearest(name, known)
    if like:
        return f"did you mean {like!r}?"
    return f"it has {', '.join(known)}." if known else "it has none."
