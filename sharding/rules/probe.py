"""What a primitive that is not in the table may be: elementwise, if everything that it is lowered to is.

New versions of JAX bring new primitives, most of them an elementwise function that used to be several. One is lowered alone to StableHLO,
and taken for elementwise if each operation in the text is, and each array there has the shape of the results or no dimensions. Anything
else cannot be split, and is said to be unknown.
"""

import functools
import re

import jax

from ...transforms.jax_compat import JaxprEqn, bind, subjaxprs
from ..factors import Rule
from .build import operand_shapes, result_shapes, types
from .elementwise import elementwise_factors

__all__ = ["UNKNOWN", "answer", "is_elementwise", "probe"]

_KEPT = 256  # answers; a program has some ten unknown primitives at worst

_OPERATIONS = frozenset(
    "abs acos acosh add and asin asinh atan atan2 atanh bessel_i1e cbrt ceil clamp compare complex conj convert cosh cosine "
    "count_leading_zeros digamma divide erf erf_inv erfc exponential exponential_minus_one floor imag is_finite is_inf is_neg_inf "
    "is_pos_inf lgamma log log_plus_one logistic maximum minimum multiply negate next_after not or polygamma popcnt power real "
    "reduce_precision remainder round_nearest_afz round_nearest_even rsqrt select shift_left shift_right_arithmetic "
    "shift_right_logical sign sine sinh sqrt square subtract tan tanh xor zeta".split()
)
_FRAME = re.compile(r"module\b|func\.func\b|\}|(func\.)?return\b|(%\S+ = )?(func\.)?call\b")
_OPERATION = re.compile(r'%\S+ = "?(?:stablehlo|chlo)\.(\w+)\b')
_ARRAY = re.compile(r"tensor<((?:\d+x)*)[^\d]")


class _Question:
    """An equation, equal to others whose answer is the same."""

    def __init__(self, eqn: JaxprEqn):
        found = tuple((aval.shape, str(aval.dtype)) for aval in types([*eqn.invars, *eqn.outvars]))
        self.eqn, self._key = eqn, (eqn.primitive.name, found, str(sorted(eqn.params.items(), key=lambda item: item[0])))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Question) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


def probe(eqn: JaxprEqn) -> Rule:
    """The rule for a primitive that nobody has written down."""
    shapes, outs = operand_shapes(eqn), result_shapes(eqn)
    alike = bool(outs) and all(shape in ((), outs[0]) for shape in shapes) and all(out == outs[0] for out in outs)
    if eqn.effects or subjaxprs(eqn) or not alike or not outs[0]:
        return UNKNOWN
    return answer(_Question(eqn))


@functools.lru_cache(maxsize=_KEPT)
def answer(question: _Question) -> Rule:
    """What the equation's own program shows; the latest answers are kept."""
    eqn = question.eqn
    operands = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in types(eqn.invars)]
    try:
        text = jax.jit(lambda *values: bind(eqn, values)).lower(*operands).as_text()
    except (NotImplementedError, TypeError, ValueError):  # nothing that this backend could run
        return UNKNOWN
    return _ELEMENTWISE if is_elementwise(text, result_shapes(eqn)[0]) else UNKNOWN


def is_elementwise(text: str, shape: tuple[int, ...]) -> bool:
    """Whether a program in StableHLO has elementwise operations only, on arrays of `shape` and of no dimensions."""
    arrays = {tuple(int(n) for n in sizes.split("x")[:-1]) for sizes in _ARRAY.findall(text)}
    return arrays <= {(), tuple(shape)} and all(_keeps_places(line.strip()) for line in text.splitlines())


def _keeps_places(line: str) -> bool:
    if not line or _FRAME.match(line):
        return True
    found = _OPERATION.match(line)
    operation = found.group(1) if found else ""
    if operation == "constant":
        return re.search(r'dense<[^\["]', line) is not None  # one number, repeated
    if operation == "broadcast_in_dim":
        return "dims = []" in line
    return operation in _OPERATIONS


UNKNOWN = Rule(lambda eqn: (), known=False)
_ELEMENTWISE = Rule(elementwise_factors, known=False)
