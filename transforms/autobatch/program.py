"""`@program`: a function of one member, which the compiler can read.

Called plainly it is the function that was decorated, recursion and all: that is the reference for everything the compiler does.
What the compiler cannot see it cannot batch, so a call from inside a helper that JAX traces is refused rather than unrolled.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from types import FunctionType
from typing import Any, Generic, ParamSpec, TypeVar, overload

import jax

from ..errors import ProgramError

__all__ = ["BatchProgram", "program", "tracing"]

P = ParamSpec("P")
R = TypeVar("R")

_TRACED: ContextVar[str | None] = ContextVar("luciole_traced_program", default=None)


class BatchProgram(Generic[P, R]):
    """A function of one member that can be run for a whole batch.

    Attributes:
        function: the Python function.
        heavy: whether it is marked as the expensive part of the programs that call it.
        signature: its parameters.
    """

    def __init__(self, function: Callable[P, R], heavy: bool = False) -> None:
        self.function: Any = function
        self.heavy = heavy
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the function as plain Python.

        Raises:
            ProgramError: the call comes from inside a function that JAX is tracing as part of another program, where the
                compiler does not see it.
        """
        if (outer := _TRACED.get()) is not None:
            raise ProgramError(
                f"program {self.name} is called where the compiler cannot see it: inside a helper function, lambda, comprehension or "
                f"transformation that program {outer} uses. Call it by name in the body of a program, or make the helper a @program."
            )
        try:
            return self.function(*args, **kwargs)
        except jax.errors.ConcretizationTypeError as error:
            error.add_note(f"program {self.name} was called as plain Python on traced values; compile it, do not put it under jit or vmap.")
            raise

    def __get__(self, instance: Any, owner: type | None = None) -> "BatchProgram[P, R]":
        if instance is not None:
            raise ProgramError(f"program {self.name} is used as a method of {type(instance).__name__}; write it as a function.")
        return self

    def __repr__(self) -> str:
        return f"<program {self.function.__module__}.{self.function.__qualname__}>"

    @property
    def signature(self) -> inspect.Signature:
        """The function's parameters, with the defaults that they have now."""
        return inspect.signature(self.function)

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__


@overload
def program(function: Callable[P, R]) -> BatchProgram[P, R]: ...
@overload
def program(*, heavy: bool) -> Callable[[Callable[P, R]], BatchProgram[P, R]]: ...
def program(function: Any = None, *, heavy: bool = False) -> Any:
    """Marks a function of one member as a program.

    Its body may use assignments to names, `if`, `while`, `for ... in range(...)`, `break`, `continue`, `return` anywhere, conditional
    expressions, `and`, `or`, `not`, any JAX function of pytrees, and calls to programs, itself among them. The sides of a conditional
    expression, and the operands of `and` and `or`, are all evaluated where the test is a traced value and none of them calls a program:
    write an `if` statement to evaluate one side only.

    Args:
        function: a plain function with named parameters; `autobatch` compiles it anew when what it reads from outside has changed.
        heavy: write `@program(heavy=True)` over the function that does the expensive work. It is compiled once, however many places
            call it, and the machine is arranged around it; without a mark a cost model decides.

    Returns:
        The program. Calling it runs the Python function.

    Raises:
        ProgramError: `function` is no plain function, is a lambda, a generator or asynchronous, has another decorator under this
            one, or takes `*args` or `**kwargs`.
    """
    if function is None:
        return functools.partial(program, heavy=heavy)
    name = getattr(function, "__name__", repr(function))

    def refuse(found: str, instead: str) -> ProgramError:
        code = getattr(inspect.unwrap(function), "__code__", None)
        place = f"{code.co_filename}:{code.co_firstlineno}: " if code else ""
        return ProgramError(f"{place}@program on {name}: {found}. {instead}")

    if not isinstance(function, FunctionType):
        raise refuse(f"a {type(function).__name__}, not a plain function", "Put @program directly over a `def`.")
    if hasattr(function, "__wrapped__"):
        raise refuse("another decorator stands under @program", "Remove it: the compiler reads the body of the `def`.")
    if name == "<lambda>":
        raise refuse("a lambda", "Write a `def`.")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise refuse("a generator or an asynchronous function", "Return values instead.")
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise refuse(f"the parameter {parameter}", "Name every parameter; pass a tuple or a dict for a variable number of values.")
    return BatchProgram(function, heavy)


@contextlib.contextmanager
def tracing(name: str) -> Iterator[None]:
    """Inside, a plain call of any program is refused as one that the compiler of program `name` cannot see."""
    token = _TRACED.set(name)
    try:
        yield
    finally:
        _TRACED.reset(token)
