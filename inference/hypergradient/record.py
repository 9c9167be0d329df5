"""What `hypergradient` returns, and its warning."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...transforms.errors import LucioleWarning

__all__ = ["Hypergradient", "RoughHypergradientWarning"]


class RoughHypergradientWarning(LucioleWarning):
    """The result of training does not follow its hyperparameters smoothly: the gradient is right, and says nothing a small step away."""


@dataclass(frozen=True)
class Hypergradient:
    """The gradient of a validation loss with respect to all that training depends on.

    Attributes:
        value: the validation loss after training.
        gradient: d value / d hypers, a pytree like hypers; `float0` for integers and keys in it.
        initial_gradient: d value / d params before the first step, like params.
        params: after the last step.
        exact: whether training was undone bit for bit ("reversible"); true for the strategies that store states.
        in_range: whether all values stayed within the fixed-point numbers ("reversible").
        repaired: segments that were run again from their snapshots.
        strategy: which way back.
        bytes: memory that the compiled program takes beside its arguments and results.
        kept_bytes: of that, what is kept for the way back, as it was known before anything ran.
        evaluations: gradients of the training loss that were computed: forwards, again, and each one that was differentiated.
        smoothness: from -1 to 1, how far two small steps along the gradient change the trained params alike; NaN if not asked for. Near 1
            the gradient can be followed; where it is not, training is chaotic.
        seconds: of the run; compile_seconds: of tracing and compiling, when this program was first needed.
    """

    value: float
    gradient: Any
    initial_gradient: Any
    params: Any
    exact: bool
    in_range: bool
    repaired: int
    strategy: str
    bytes: int
    kept_bytes: int
    evaluations: int
    smoothness: float
    seconds: float
    compile_seconds: float
    predict: Callable[[], int] = field(repr=False, compare=False)

    @functools.cached_property
    def predicted_bytes(self) -> int:
        """`bytes` as they are known before the whole program is compiled; compiles one step, the first time it is asked for."""
        return self.predict()

    def __repr__(self) -> str:
        how = f"{self.strategy}, {self.evaluations:,} gradients, {self.bytes / 1e6:.3g} MB, {self.seconds:.3g} s"
        flags = "" if self.exact and self.in_range else f", exact={self.exact}, in_range={self.in_range}"
        return f"Hypergradient(value={self.value:.6g}, smoothness={self.smoothness:.3g}{flags}; {how})"
