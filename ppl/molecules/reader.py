"""RDKit, which is imported where a molecule is read or drawn and not before."""

from typing import Any

__all__ = ["rdkit"]


def rdkit() -> Any:
    """RDKit's module of molecules.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from rdkit import Chem
    except ImportError as e:
        raise ImportError("molecules are read by RDKit: pip install 'luciole[molecules]'. Graphs that were saved need none.") from e
    return Chem
