"""Molecules are graphs: from SMILES to arrays (`smiles.py`, with RDKit), their features, circular fingerprints, drawings."""

from .circular import circular_fingerprint
from .smiles import SkippedMoleculeWarning, graphs_from_smiles

__all__ = ["SkippedMoleculeWarning", "circular_fingerprint", "graphs_from_smiles"]
