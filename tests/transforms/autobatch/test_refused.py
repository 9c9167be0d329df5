"""What the front end refuses: the message, the file and the line, and a caret under the construct."""

import functools
import linecache
import re

import jax
import jax.numpy as jnp
import pytest

from luciole.transforms import ProgramError, program
from luciole.transforms.autobatch.front import lower

from .programs import fib

PROGRAMS = {"fib": fib}


def helper(x):
    return fib(x)


CASES = []


def refused(name, underlined, message):
    """Says that the program below must be refused with `message` and a caret under the text `underlined`."""
    CASES.append(pytest.param(name, underlined, message, id=name))


def check(error, underlined, message):
    """A message that gives this file, a line that holds what is underlined, and says what to write instead."""
    text = str(error)
    assert re.search(message, text), text
    *_, source, pointer = text.splitlines()
    start, end = pointer.index("^"), pointer.rindex("^") + 1
    assert source[start:end] == underlined, text
    file, line = re.match(r"(.*?):(\d+): in program ", text).groups()
    assert file == __file__
    assert linecache.getline(file, int(line)).strip() == source.strip()


refused("element", "x[0]", r"assignment to an element .* write x = x.at\[i\].set\(v\)")


@program
def element(x):
    x[0] = 1.0
    return x


refused("element_augmented", "x[1]", r"assignment to an element")


@program
def element_augmented(x):
    x[1] += 1.0
    return x


refused("attribute", "x.shape", r"assignment to an attribute .* dataclasses.replace\(x, shape=v\)")


@program
def attribute(x):
    y, x.shape = x, ()
    return y


refused("exceptions", "try:", r"try cannot be compiled. .* return a value that tells what happened")


@program
def exceptions(x):
    try:
        return x
    finally:
        x = x + 1


refused("context", "with jax.named_scope('a'):", r"with cannot be compiled. Call a helper function")


@program
def context(x):
    with jax.named_scope('a'):  # fmt: skip
        return x


refused("raising", "raise ValueError(x)", r"raise cannot be compiled")


@program
def raising(x):
    raise ValueError(x)


refused("asserting", "assert x > 0, x", r"assert cannot be compiled. .* before the program is called")


@program
def asserting(x):
    assert x > 0, x
    return x


refused("nested", "def inner(y):", r"a nested function cannot be compiled. Define it outside")


@program
def nested(x):
    def inner(y):
        return y

    return inner(x)


refused("nested_class", "class Inner:", r"a nested class cannot be compiled")


@program
def nested_class(x):
    class Inner:
        pass

    return x


refused("global_name", "global PROGRAMS", r"global cannot be compiled. Pass the value as an argument")


@program
def global_name(x):
    global PROGRAMS
    PROGRAMS = x
    return x


refused("delete", "del x", r"del cannot be compiled")


@program
def delete(x):
    y = x
    del x
    return y


refused("importing", "import math", r"import cannot be compiled. Import at the top")


@program
def importing(x):
    import math

    return x * math.pi


refused("matching", "match x:", r"match cannot be compiled. Write if and elif")


@program
def matching(x):
    match x:
        case _:
            return x


refused("walrus", "y := x + 1", r"an assignment expression cannot be compiled")


@program
def walrus(x):
    return (y := x + 1) * y


refused("while_else", "while x > 0:", r"while with else cannot be compiled. Set a flag")


@program
def while_else(x):
    while x > 0:
        x = x - 1
    else:
        x = 5
    return x


refused("for_else", "for _ in range(3):", r"for with else cannot be compiled. Set a flag")


@program
def for_else(x):
    for _ in range(3):
        x = x - 1
    else:
        x = 5
    return x


refused("loop_over_array", "x", r"a loop over this cannot be compiled. Loop over range")


@program
def loop_over_array(x):
    y = 0
    for row in x:
        y = y + row
    return y


refused("loop_over_pairs", "i, j", r"this loop variable cannot be compiled")


@program
def loop_over_pairs(x):
    for i, j in range(3):
        x = x + i + j
    return x


refused("in_lambda", "fib", r"program fib in a lambda cannot be compiled")


@program
def in_lambda(x):
    return jax.vmap(lambda y: fib(y))(x)


refused("in_comprehension", "fib", r"program fib in a comprehension cannot be compiled. Write a loop")


@program
def in_comprehension(x):
    return sum([fib(y) for y in (x, 2)])


refused("as_value", "fib", r"program fib used as a value cannot be compiled")


@program
def as_value(x):
    return jax.vmap(fib)(x)


refused("as_variable", "fib", r"program fib used as a value")


@program
def as_variable(x):
    f = fib
    return f(x)


refused("starred", "*y", r"a starred argument in the call of program fib cannot be compiled")


@program
def starred(x):
    y = (x,)
    return fib(*y)


refused("starred_keywords", "**{'n': x}", r"a starred argument")


@program
def starred_keywords(x):
    return fib(**{'n': x})  # fmt: skip


refused("wrong_arguments", "fib(x, k=2)", r"the call does not fit fib\(n\): got an unexpected keyword argument 'k'")


@program
def wrong_arguments(x):
    return fib(x, k=2)


refused("in_helper", "helper(x)", r"program fib is called where the compiler cannot see it: .* program in_helper uses")


@program
def in_helper(x):
    return helper(x)


refused("in_container", "PROGRAMS['fib'](x)", r"program fib is called where the compiler cannot see it")


@program
def in_container(x):
    return PROGRAMS['fib'](x)  # fmt: skip


refused("vector_test", "jnp.stack([x, x])", r"a test of type float32\[2\]; one member takes one path. Reduce it with .any\(\)")


@program
def vector_test(x):
    if jnp.stack([x, x]):
        return x
    return x + 1


refused("vector_in_and", "x > 0 and jnp.zeros(3) > x", r"a test of type bool\[3\]")


@program
def vector_in_and(x):
    if x > 0 and jnp.zeros(3) > x:
        return x
    return x + 1


refused("typed_key", "key", r"the variable `key` holds a typed random key, key<fry>. .*key_data")


@program
def typed_key(x):
    key = jax.random.key(0)
    if x > 0:
        x = x + 1
    return x + jax.random.uniform(key)


refused("changed_in_place", "xs", r"`xs` is changed in place. .* xs = \[\*xs, v\]")


@program
def changed_in_place(x):
    xs = []
    while x > 0:
        xs.append(x)
        x = x - 1
    return x


refused("kept_closure", "f", r"the variable `f` holds a function of traced values.*Use it in the statement that makes it")


@program
def kept_closure(x):
    z = x * 2
    f = lambda y: y + z  # noqa: E731
    if x > 0:
        return f(x)
    return x


refused("returns_string", "return 'yes'", r"returns_string returns 'yes'; the main program returns arrays and numbers only")


@program
def returns_string(x):
    return 'yes'  # fmt: skip


refused("falls_off", "return x", r"returns a value here, and reaches its end without `return` on another path")


@program
def falls_off(x):
    if x > 0:
        return x


refused("endless", "def endless(x):", r"no path of endless returns. Give it a case")


@program
def endless(x):
    return endless(x + 1)


refused("float_range", "x", r"range\(\) of float32\[\]; its bounds are integers")


@program
def float_range(x):
    for _ in range(x):
        x = x + 1
    return x


@pytest.mark.parametrize(("name", "underlined", "message"), CASES)
def test_refused(name, underlined, message):
    with pytest.raises(ProgramError) as caught:
        lower(globals()[name], jnp.float32(2))
    check(caught.value, underlined, message)


def test_a_method_is_refused():
    class Model:
        @program
        def walk(self, x):
            return x

    with pytest.raises(ProgramError, match="program walk is used as a method of Model; write it as a function"):
        Model().walk(1)


def over(function):
    """A decorator that leaves no trace on what it returns."""
    return lambda *args: function(*args)


@over
@program
def decorated(x):
    return x


def test_other_decorators_are_refused():
    inner = decorated.__closure__[0].cell_contents
    with pytest.raises(ProgramError) as caught:
        lower(inner, 1)
    check(caught.value, "over", "another decorator beside @program. Remove it")

    @functools.wraps(helper)
    def wrapper(x):
        return helper(x)

    with pytest.raises(ProgramError, match=rf"{re.escape(__file__)}:\d+: @program on helper: another decorator stands under @program"):
        program(wrapper)
    with pytest.raises(ProgramError, match=r"@program on helper: a \w+, not a plain function"):
        program(jax.jit(helper))


def test_functions_that_are_no_programs():
    def generator(x):
        yield x

    async def coroutine(x):
        return x

    def variable(x, *rest):
        return x

    for function, message in (
        (generator, "a generator or an asynchronous function"),
        (coroutine, "a generator or an asynchronous function"),
        (lambda x: x, r"@program on <lambda>: a lambda. Write a `def`"),
        (variable, r"the parameter \*rest. Name every parameter"),
        (3, "a int, not a plain function"),
    ):
        with pytest.raises(ProgramError, match=message):
            program(function)


def test_no_source():
    names = {"program": program}
    exec("@program\ndef typed_at_a_prompt(x):\n    return x", names)
    assert names["typed_at_a_prompt"](3) == 3
    with pytest.raises(ProgramError, match="<string>:1: the source of program typed_at_a_prompt cannot be found"):
        lower(names["typed_at_a_prompt"], 3)


def test_arguments():
    with pytest.raises(ProgramError, match=r"program fib\(n\): missing a required argument: 'n'"):
        lower(fib)
    with pytest.raises(ProgramError, match=r"program fib: argument `n` at \['a'\] is a str; pass arrays"):
        lower(fib, {"a": "b"})
    with pytest.raises(ProgramError, match=r"argument `n` holds a typed random key, key<fry>. Pass its words"):
        lower(fib, jax.random.key(0))


@program
def failing(x):
    if x > 0:
        return jnp.zeros(3) @ jnp.zeros(
            4  # a mistake of the user's
        )
    return x


def test_errors_of_the_users_code_keep_their_type():
    with pytest.raises(TypeError) as caught:
        lower(failing, 1.0)
    line = failing.function.__code__.co_firstlineno + 3
    assert caught.value.__notes__[-1] == (f"in program failing, {__file__}:{line}: return jnp.zeros(3) @ jnp.zeros(")


def test_plain_call_on_traced_values():
    with pytest.raises(jax.errors.TracerBoolConversionError) as caught:
        jax.jit(fib)(3)
    assert "program fib was called as plain Python on traced values" in caught.value.__notes__[0]
