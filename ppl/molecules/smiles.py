"""From SMILES to graphs, by RDKit (extra `molecules`)."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ...transforms import LucioleWarning, ModelError
from ..graphs import Graphs
from .features import ELEMENTS, atom_features, atom_kind, bond_features, bond_kind
from .reader import rdkit

__all__ = ["SkippedMoleculeWarning", "graphs_from_smiles"]

_MOST_NAMED = 10


class SkippedMoleculeWarning(LucioleWarning):
    """Molecules are left out because they could not be made into graphs; the message has their rows."""


def graphs_from_smiles(smiles: Sequence[str], on_error: str = "raise", *, max_degree: int = 5) -> Graphs:
    """Molecules as graphs: atoms without their hydrogens are nodes with 62 features, bonds are edges with 6.

    Args:
        smiles: one text for each molecule. A molecule of several parts is one graph.
        on_error: "raise", or "skip": leave molecules out that cannot be read, with a warning; `y[graphs.rows]` are the rows left.
        max_degree: the largest number of bonds that an atom may have.

    Returns:
        Graphs, in the order given. `save` them, and reading them again needs no RDKit.

    Raises:
        ModelError: a text that does not parse, a molecule without atoms, an atom of an element without a feature, an atom with more
            than `max_degree` bonds: all rows are listed. No molecule is left.
        ImportError: RDKit is not installed.

    Warns:
        SkippedMoleculeWarning: lists the rows left out and why.

    Source:
        Duvenaud et al. (2015), section 5, for the features.
    """
    if isinstance(smiles, str):
        raise ModelError("graphs_from_smiles: smiles is one text; a list of texts expected, `[smiles]`.")
    if on_error not in ("raise", "skip"):
        raise ModelError(f"graphs_from_smiles: on_error is {on_error!r}; 'raise' or 'skip' expected.")
    texts = list(smiles)
    read = [_molecule(text, max_degree) for text in texts]
    bad = {row: found for row, found in enumerate(read) if isinstance(found, str)}
    good = [row for row in range(len(texts)) if row not in bad]
    if bad:
        what = "; ".join(f"row {row} {texts[row]!r} {why}" for row, why in list(bad.items())[:_MOST_NAMED])
        more = f"; and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
        message = f"graphs_from_smiles: {len(bad)} of {len(texts)} molecules cannot be made into graphs: {what}{more}."
        if on_error == "raise" or not good:
            raise ModelError(message + " Mend them, or write on_error='skip' and use y[graphs.rows]." * bool(good))
        warnings.warn(f"{message} They are left out; y[graphs.rows] are the rows that stay.", SkippedMoleculeWarning, stacklevel=2)
    if not good:
        raise ModelError("graphs_from_smiles: there is no molecule; a list of SMILES expected.")
    return _graphs([texts[row] for row in good], [read[row] for row in good], np.array(good), max_degree)


def _molecule(text: Any, max_degree: int) -> Any:
    """RDKit's molecule, or what is wrong with it."""
    chem = rdkit()
    if not isinstance(text, str):
        return f"is a {type(text).__name__}, no text"
    from rdkit.rdBase import BlockLogs  # what it would print is in our message

    with BlockLogs():
        molecule = chem.MolFromSmiles(text)
    if molecule is None:
        return "does not parse"
    if not molecule.GetNumAtoms():
        return "has no atoms"
    for atom in molecule.GetAtoms():
        if atom.GetSymbol() not in ELEMENTS:
            return f"has an atom {atom.GetSymbol()!r}, an element without a feature"
        if atom.GetDegree() > max_degree:
            return f"has an atom with {atom.GetDegree()} bonds, more than max_degree={max_degree}"
    return molecule


def _graphs(texts: list[str], molecules: list[Any], rows: np.ndarray, max_degree: int) -> Graphs:
    atoms = [atom for m in molecules for atom in m.GetAtoms()]
    bonds = [bond for m in molecules for bond in m.GetBonds()]
    return Graphs(
        nodes=np.array([atom_features(a) for a in atoms]),
        edges=np.array([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in bonds], int).reshape(-1, 2),
        edge_features=np.array([bond_features(b) for b in bonds]).reshape(-1, 6),
        num_nodes=np.array([m.GetNumAtoms() for m in molecules]),
        num_edges=np.array([m.GetNumBonds() for m in molecules]),
        names=np.array(texts),
        node_kinds=np.array([atom_kind(a) for a in atoms]),
        edge_kinds=np.array([bond_kind(b) for b in bonds], np.int64),
        rows=rows,
        max_degree=max_degree,
    )
