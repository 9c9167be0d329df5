"""Programs that compute the same from less of the data; see `specialise`."""

from .specialise import Replaced, Specialised, specialise

__all__ = ["Replaced", "Specialised", "specialise"]
