"""Molecules drawn with the atoms that matter, and the piece of a molecule that is some steps around an atom. By RDKit."""

from typing import Any

import numpy as np

from ...transforms import ModelError
from .reader import rdkit

__all__ = ["Drawing", "draw_molecule", "fragment"]

_ADDS, _TAKES = np.array([0.25, 0.45, 0.95]), np.array([0.95, 0.3, 0.25])  # blue and red, told apart by colour-blind readers too


class Drawing(str):
    """SVG text that notebooks show as a picture."""

    def _repr_svg_(self) -> str:
        return str(self)


def draw_molecule(smiles: str, weights: Any, size: tuple[int, int] = (350, 250), largest: float | None = None) -> Drawing:
    """A molecule as SVG, its atoms coloured by weight: blue above zero, red below, paler towards it.

    Args:
        smiles: of the molecule. weights: (atoms,), in its order. size: in pixels.
        largest: the weight, up or down, of the full colour; by default the largest here.

    Raises:
        ModelError: there is not a weight for each atom.
    """
    chem = rdkit()
    from rdkit.Chem.Draw import rdMolDraw2D

    molecule, weights = chem.MolFromSmiles(smiles), np.asarray(weights, float)
    if molecule is None or weights.shape != (molecule.GetNumAtoms(),):
        raise ModelError(f"draw_molecule: {smiles!r} and weights of shape {weights.shape}; a molecule and a weight for each atom expected.")
    full = largest or float(np.abs(weights).max(initial=0)) or 1.0
    shares = np.clip(np.abs(weights) / full, 0, 1)[:, None]
    colours = 1 - shares * (1 - np.where(weights[:, None] > 0, _ADDS, _TAKES))
    canvas = rdMolDraw2D.MolDraw2DSVG(*size)
    atoms = list(range(len(weights)))
    rdMolDraw2D.PrepareAndDrawMolecule(
        canvas,
        molecule,
        highlightAtoms=atoms,
        highlightBonds=[],
        highlightAtomColors=dict(zip(atoms, map(tuple, colours.tolist()), strict=True)),
    )
    canvas.FinishDrawing()
    return Drawing(canvas.GetDrawingText())


def fragment(smiles: str, atom: int, radius: int) -> str:
    """SMILES of what is up to `radius` bonds away from an atom."""
    chem = rdkit()
    molecule = chem.MolFromSmiles(smiles)
    bonds = list(chem.FindAtomEnvironmentOfRadiusN(molecule, radius, atom, useHs=False, enforceSize=False)) if radius else []
    atoms = {atom} | {i for b in bonds for i in (molecule.GetBondWithIdx(b).GetBeginAtomIdx(), molecule.GetBondWithIdx(b).GetEndAtomIdx())}
    return chem.MolFragmentToSmiles(molecule, sorted(atoms), bondsToUse=bonds, rootedAtAtom=atom)
