"""Programs: the lowest floor of the house. It knows jaxprs and nothing of models, samplers or meshes."""

if __name__ == "transforms":
    raise ImportError("this folder is part of the package luciole: write `from luciole import transforms`")

from .errors import DerivativeError, InitError, LucioleError, LucioleWarning, ModelError, SamplerError
from .lanes import any_lane
from .streams import Stream, key_words, normal, stream_for, uniform
from .structure import structure

__all__ = [
    "DerivativeError",
    "InitError",
    "LucioleError",
    "LucioleWarning",
    "ModelError",
    "SamplerError",
    "Stream",
    "any_lane",
    "key_words",
    "normal",
    "stream_for",
    "structure",
    "uniform",
]
