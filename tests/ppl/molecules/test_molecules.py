"""Molecules: what RDKit reads arrives, circular fingerprints find what RDKit's find, and nothing is dropped without a word."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

import luciole as lc
from luciole.ppl.molecules.circular import surroundings

Chem = pytest.importorskip("rdkit.Chem")

SMILES = [
    "C", "CCO", "c1ccccc1", "CC(=O)Oc1ccccc1C(=O)O", "C1CC1C#N", "[Na+].[Cl-]", "OC[C@@H](O)[C@H](O)CO", "F/C=C/F", "[13CH4]",
    "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "ClC(Cl)(Cl)C(c1ccc(Cl)cc1)c1ccc(Cl)cc1", "O=S(=O)(N)c1ccc(N)cc1", "c1ccc2c(c1)ccc1ccccc12",
    "CCCCCCCCCCCCCCCC", "C[N+](C)(C)CC([O-])=O", "BrC1CCCCC1", "CC(C)(C)C", "P(=O)(O)(O)O", "c1ccsc1", "[H][H]",
]  # fmt: skip


@pytest.fixture(scope="module")
def graphs():
    return lc.graphs_from_smiles(SMILES)


@pytest.mark.parametrize("radius", [0, 1, 2, 3])
def test_circular_fingerprints_find_what_rdkit_finds(graphs, radius):
    from rdkit.Chem import rdFingerprintGenerator

    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius)
    names: dict[int, int] = {}
    for smiles, hashes in zip(SMILES, surroundings(graphs, radius), strict=True):
        theirs = generator.GetSparseCountFingerprint(Chem.MolFromSmiles(smiles)).GetNonzeroElements()
        ours = Counter(hashes)
        assert sorted(ours.values()) == sorted(theirs.values()), smiles
        names |= dict.fromkeys(ours, 0)
    everything = set().union(*(generator.GetSparseCountFingerprint(Chem.MolFromSmiles(s)).GetNonzeroElements() for s in SMILES))
    assert len(names) == len(everything)  # two surroundings have one number with us where they have one with RDKit


def test_counts_and_bits(graphs):
    bits, counts = lc.circular_fingerprint(graphs), lc.circular_fingerprint(graphs, counts=True)
    assert bits.shape == (len(SMILES), 2048) and set(np.unique(bits)) == {0.0, 1.0}
    assert np.array_equal(bits, np.minimum(counts, 1)) and counts.max() > 5
    assert np.array_equal(counts, lc.circular_fingerprint(graphs.permuted(0), counts=True))


def test_features_are_those_of_the_paper(graphs):
    assert graphs.nodes.shape[1] == 62 and graphs.edge_features.shape[1] == 6
    ethanol = graphs[1]
    assert [int(np.argmax(row[:44])) for row in ethanol.nodes] == [0, 0, 2] and (ethanol.nodes.sum(axis=1) == 4).all()
    assert [int(np.argmax(row[44:50])) for row in ethanol.nodes] == [1, 2, 1]
    benzene = graphs[2]
    assert (benzene.nodes[:, 61] == 1).all() and (benzene.edge_features == [0, 0, 0, 1, 1, 1]).all()


BAD = ["C", "not a molecule", "", "[U]", "CC", "F[P-](F)(F)(F)(F)F", None]


def test_what_cannot_be_read_is_listed_by_row():
    with pytest.raises(lc.ModelError) as error:
        lc.graphs_from_smiles(BAD)
    for part in ("5 of 7", "row 1 'not a molecule' does not parse", "row 2 '' has no atoms", "row 3 '[U]' has an atom 'U'",
                 "row 5 'F[P-](F)(F)(F)(F)F' has an atom with 6 bonds, more than max_degree=5", "row 6 None is a NoneType"):  # fmt: skip
        assert part in str(error.value)
    with pytest.warns(lc.SkippedMoleculeWarning, match="5 of 7"):
        graphs = lc.graphs_from_smiles(BAD, on_error="skip")
    assert graphs.rows.tolist() == [0, 4]
    assert len(lc.graphs_from_smiles(["F[P-](F)(F)(F)(F)F"], max_degree=6)) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lc.graphs_from_smiles("CCO"), "one text; a list"),
        (lambda: lc.graphs_from_smiles([]), "no molecule"),
        (lambda: lc.graphs_from_smiles(["C"], on_error="ignore"), "'raise' or 'skip'"),
        (lambda: lc.graphs_from_smiles(["X"], on_error="skip"), "1 of 1"),
        (lambda: lc.circular_fingerprint(np.ones(3)), "`lc.Graphs` expected"),
        (lambda: lc.circular_fingerprint(lc.graphs_from_smiles(["C"]), radius=-1), "radius is -1"),
    ],
)
def test_bad_calls(call, message):
    with pytest.raises(lc.ModelError, match=message):
        call()


def test_saved_molecules_need_no_rdkit(graphs, tmp_path):
    graphs.save(tmp_path / "g.npz")
    code = (
        "import sys; sys.modules['rdkit'] = None\n"
        "import luciole as lc\n"
        f"g = lc.Graphs.load({str(tmp_path / 'g.npz')!r})\n"
        "assert lc.circular_fingerprint(g).sum() > 0 and g.names[1] == 'CCO'\n"
        "try: lc.graphs_from_smiles(['C'])\n"
        "except ImportError as e: assert 'luciole[molecules]' in str(e)\n"
        "else: raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_drawing_shows_which_atoms_matter():
    from luciole.ppl.molecules.drawing import draw_molecule, fragment

    svg = draw_molecule("CCO", [0.0, 0.5, -1.0])
    assert svg.lstrip().startswith("<?xml") and "<svg" in svg._repr_svg_()
    assert svg != draw_molecule("CCO", [0.0, -0.5, 1.0])
    with pytest.raises(lc.ModelError, match="a weight for each atom"):
        draw_molecule("CCO", [1.0])
    assert [fragment("CCO", 2, r) for r in (0, 1, 2)] == ["O", "OC", "OCC"]
