"""What a network is told of an atom and of a bond.

Source:
    Duvenaud et al. (2015), Convolutional networks on graphs for learning molecular fingerprints, section 5: 62 numbers for an atom, 6 for
    a bond, in the order of the authors' code. Where they have a column for elements that they do not list, we refuse the molecule: all
    elements would look alike. The column stays, empty, so that arrays fit theirs.
"""

from typing import Any

import numpy as np

from ..graphs.hashing import stable_hash
from .reader import rdkit

__all__ = ["ELEMENTS", "atom_features", "atom_kind", "bond_features", "bond_kind"]

ELEMENTS = "C N O S F Si P Cl Br Mg Na Ca Fe As Al I B V K Tl Yb Sb Sn Ag Pd Co Se Ti Zn H Li Ge Cu Au Ni Cd In Mn Zr Cr Pt Hg Pb".split()
_BONDS = ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")


def atom_features(atom: Any) -> np.ndarray:
    """(62,): element (44), degree 0 to 5, hydrogens 0 to 4, implicit valence 0 to 5 (the last also for more), aromatic or not."""
    implicit = atom.GetNumImplicitHs()  # the implicit valence, by the name that RDKit keeps
    parts = [
        _one_of(ELEMENTS.index(atom.GetSymbol()), len(ELEMENTS) + 1),
        _one_of(atom.GetDegree(), 6),
        _one_of(atom.GetTotalNumHs(), 5),
        _one_of(implicit, 6),
        [float(atom.GetIsAromatic())],
    ]
    return np.concatenate(parts)


def bond_features(bond: Any) -> np.ndarray:
    """(6,): single, double, triple, aromatic, conjugated, in a ring."""
    kind = str(bond.GetBondType())
    return np.array([*(kind == name for name in _BONDS), bond.GetIsConjugated(), bond.IsInRing()], float)


def atom_kind(atom: Any) -> int:
    """What an extended-connectivity fingerprint starts from, as one number.

    Source:
        Rogers and Hahn (2010), Extended-connectivity fingerprints, section "Initial assignment": element, neighbours, hydrogens, charge,
        mass above the element's, in a ring or not (RDKit's connectivity invariants).
    """
    delta = int(atom.GetMass() - rdkit().GetPeriodicTable().GetAtomicWeight(atom.GetAtomicNum()))  # whole units, as RDKit takes them
    ring = atom.GetOwningMol().GetRingInfo().NumAtomRings(atom.GetIdx()) > 0
    of_atom = (atom.GetAtomicNum(), atom.GetTotalDegree(), atom.GetTotalNumHs(), atom.GetFormalCharge(), delta, ring)
    return stable_hash(np.array(of_atom, np.int64).tobytes())


def bond_kind(bond: Any) -> int:
    """Single, double, triple, aromatic, as RDKit numbers them."""
    return int(bond.GetBondType())


def _one_of(which: int, size: int) -> np.ndarray:
    return np.eye(size)[min(which, size - 1)]
