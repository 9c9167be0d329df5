"""Programs: the lowest floor of the house. It knows jaxprs and nothing of models, samplers or meshes."""

if __name__ == "transforms":
    raise ImportError("this folder is part of the package luciole: write `from luciole import transforms`")

from .affine import Affine, Dependence, Input, NotAffine, affine_in, why_not_affine
from .affine_blocks import ContractBlock, DenseBlock, GatherBlock
from .errors import DerivativeError, InitError, LucioleError, LucioleWarning, ModelError, SamplerError
from .lanes import any_lane
from .streams import Stream, key_words, normal, stream_for, uniform
from .structure import structure

__all__ = [
    "Affine",
    "ContractBlock",
    "DenseBlock",
    "Dependence",
    "DerivativeError",
    "GatherBlock",
    "InitError",
    "Input",
    "LucioleError",
    "LucioleWarning",
    "ModelError",
    "NotAffine",
    "SamplerError",
    "Stream",
    "affine_in",
    "any_lane",
    "key_words",
    "normal",
    "stream_for",
    "structure",
    "uniform",
    "why_not_affine",
]
