"""What random numbers are for: the one table of purposes of `transforms.streams`.

A number is a function of the run's key, chain, transition, purpose and index. Two uses that may meet in one transition must not share a
purpose, or they would see the same numbers; so every use has its own, whoever it meets. 255 is that of `stream_for`.
"""

from enum import IntEnum, unique

__all__ = ["Purpose"]


@unique
class Purpose(IntEnum):
    """Uses of random numbers."""

    MOMENTUM = 1  # Hamiltonian kernels: the momentum's noise
    DIRECTION = 2  # NUTS: which way a tree doubles
    CHOICE = 3  # NUTS: which state of two
    ACCEPT = 4  # kernels that propose: the Metropolis test
    LENGTH = 5  # HMC: by how much a trajectory is shortened
    PROPOSAL = 6  # random walk: the step's noise
    LEVEL = 7  # slice kernels: the height of the slice
    PLACE = 8  # slice: where the interval lies about the point
    SHARE = 9  # slice: how the steps out are shared
    POINT = 10  # slice: points within the interval
    ELLIPSE = 11  # elliptical slice: the other point of the ellipse
    ANGLE = 12  # elliptical slice: points on the ellipse
    JITTER = 13  # rotation HMC: by how much a trajectory is shortened
    NUMBER = 20  # Firefly: how many dark rows are proposed
    WHICH = 21  # Firefly: which
    BRIGHTEN = 22  # Firefly: whether a proposed row becomes bright
    DARKEN = 23  # Firefly: whether a bright row becomes dark
    START = 200  # the search for a start
