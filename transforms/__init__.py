"""Programs: the lowest floor of the house. It knows jaxprs and nothing of models, samplers or meshes."""

if __name__ == "transforms":
    raise ImportError("this folder is part of the package luciole: write `from luciole import transforms`")

from . import reversible
from .affine import (
    Affine,
    ContractBlock,
    DenseBlock,
    Dependence,
    GatherBlock,
    Input,
    NotAffine,
    affine_in,
    why_not_affine,
)
from .autobatch import autobatch, program, scratch
from .autodiff import (
    LinearProgram,
    check_linearization,
    defines_linearization,
    dynamic_loop,
    grad,
    hvp,
    jvp,
    linearize,
    transpose,
    value_and_grad,
    vjp,
)
from .digest import array_digest, digest
from .errors import (
    BoundError,
    DerivativeError,
    EvidenceError,
    InitError,
    KeywordError,
    LucioleError,
    LucioleWarning,
    ModelError,
    NoAttributeError,
    PartitionError,
    ProgramError,
    SamplerError,
    StoreError,
    TrainingError,
)
from .reversible import reversible_loop
from .streams import Stream, key_words, normal, stream_for, uniform
from .structure import placed, structure

__all__ = [
    "Affine",
    "BoundError",
    "ContractBlock",
    "DenseBlock",
    "Dependence",
    "DerivativeError",
    "EvidenceError",
    "GatherBlock",
    "InitError",
    "Input",
    "KeywordError",
    "LinearProgram",
    "LucioleError",
    "LucioleWarning",
    "ModelError",
    "NoAttributeError",
    "NotAffine",
    "PartitionError",
    "ProgramError",
    "SamplerError",
    "StoreError",
    "Stream",
    "TrainingError",
    "affine_in",
    "array_digest",
    "autobatch",
    "check_linearization",
    "defines_linearization",
    "digest",
    "dynamic_loop",
    "grad",
    "hvp",
    "jvp",
    "key_words",
    "linearize",
    "normal",
    "placed",
    "program",
    "reversible",
    "reversible_loop",
    "scratch",
    "stream_for",
    "structure",
    "transpose",
    "uniform",
    "value_and_grad",
    "vjp",
    "why_not_affine",
]
