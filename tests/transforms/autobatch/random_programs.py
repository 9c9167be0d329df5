"""Small random programs that always end: assignments, copies, swaps, branches, counted loops, early returns and calls with fuel."""

import jax.numpy as jnp
from hypothesis import strategies as st

from .more_by_hand import NOTHING, Writer, program

FUNCTIONS, VARIABLES = ("f", "g", "h"), ("a", "b", "c", "d")
OPERATIONS = {
    "copy": lambda x, y: x,
    "add": lambda x, y: x + y,
    "less": lambda x, y: x - 2 * y,
    "more": lambda x, y: x + 1,
    "zero": lambda x, y: jnp.int32(0),
    "seven": lambda x, y: jnp.int32(7),
}

variable = st.sampled_from(VARIABLES)
assignment = st.tuples(variable, st.sampled_from([*OPERATIONS, "copy", "copy"]), variable, variable)
assign = st.lists(assignment, min_size=1, max_size=3, unique_by=lambda a: a[0]).map(lambda found: ("assign", found))
call = st.tuples(st.just("call"), st.sampled_from(FUNCTIONS), variable, variable, st.lists(variable, max_size=2, unique=True))
leave = st.tuples(st.just("return"), variable, variable)


def _compound(inner):
    body = st.lists(inner, max_size=3)
    return st.one_of(st.tuples(st.just("if"), variable, body, body), st.tuples(st.just("loop"), st.integers(0, 2), body))


statement = st.recursive(st.one_of(assign, assign, call, leave), _compound, max_leaves=4)
bodies = st.tuples(*(st.lists(statement, min_size=1, max_size=4) for _ in FUNCTIONS))


class Lowering:
    """Statements of one function to blocks."""

    def __init__(self, name, body):
        self.writer = Writer(name, "fuel a b", results=("r", "s"), tests=("test",))
        self.count = 0
        end = self.label()
        first = self.label()
        self.writer.block("start", lambda fuel: [fuel <= 0], "fuel", "test", f"branch test {end} {first}")
        self.writer.block(end, NOTHING, "", "", "return b a")
        body = [("assign", [("c", "copy", "a", "a"), ("d", "seven", "a", "a")]), *body, ("return", "c", "a")]
        self.statements(body, first, end)

    def label(self):
        self.count += 1
        return f"L{self.count}"

    def statements(self, body, label, end):
        """Lowers `body`, which begins at `label` and goes on at `end`."""
        for kind, *parts in body:
            following = self.label()
            getattr(self, f"lower_{kind}")(label, following, *parts)
            label = following
        self.writer.block(label, NOTHING, "", "", f"jump {end}")

    def lower_assign(self, label, following, found):
        operations = [OPERATIONS[name] for _, name, _, _ in found]
        code = lambda *xs: [operation(xs[2 * i], xs[2 * i + 1]) for i, operation in enumerate(operations)]  # noqa: E731
        reads = " ".join(f"{x} {y}" for _, _, x, y in found)
        self.writer.block(label, code, reads, " ".join(target for target, *_ in found), f"jump {following}")

    def lower_call(self, label, following, callee, x, y, targets):
        back = self.label()
        self.writer.block(label, lambda fuel: [fuel - 1], "fuel", "less", f"call {callee} less {x} {y} {back}")
        results = f"{callee}.r {callee}.s".split()[: len(targets)]
        self.writer.block(back, lambda *xs: xs, " ".join(results), " ".join(targets), f"jump {following}")

    def lower_return(self, label, following, x, y):
        self.writer.block(label, NOTHING, "", "", f"return {x} {y}")

    def lower_if(self, label, following, x, yes, no):
        first, second = self.label(), self.label()
        self.writer.block(label, lambda x: [x > 1], x, "test", f"branch test {first} {second}")
        self.statements(yes, first, following)
        self.statements(no, second, following)

    def lower_loop(self, label, following, times, body):
        head, inside, again = self.label(), self.label(), self.label()
        counter = f"i{label}"
        self.writer.block(label, lambda: [jnp.int32(0)], "", counter, f"jump {head}")
        self.writer.block(head, lambda i: [i < times], counter, "test", f"branch test {inside} {following}")
        self.statements(body, inside, again)
        self.writer.block(again, lambda i: [i + 1], counter, counter, f"jump {head}")


def lower(found):
    """A program from one list of statements per function."""
    return program(*(Lowering(name, body).writer for name, body in zip(FUNCTIONS, found, strict=True)))


programs = bodies.map(lower)
