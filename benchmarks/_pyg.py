"""The neural fingerprint network in PyTorch Geometric: run by an environment that has it, torch and RDKit, which is none of Luciole's.

    pip install torch torch_geometric rdkit
    python benchmarks/_pyg.py ../shared/data/delaney.csv [--threads 1] [--repeats 20] [--compile] [--cpu]   # JSON: medians
    python benchmarks/_pyg.py ../shared/data/delaney.csv --serve     # a line of JSON; then, for each line read, the seconds of an epoch

An epoch is the mean squared error and its gradient in the weights over all molecules in batches of 100. Collation, that is the batches
from the molecules, is timed apart, and the sums of the features of a node's bonds are made once with the molecules.

The network is that of Duvenaud et al. (2015) as `lc.neural_fingerprint` has it; of the ways to write it that we tried the quickest on a
CPU: nodes sorted by degree, so that the product for each degree reads a slice (an index_select and index_copy for each degree, as in
PyG's own MFConv, takes 1.4 times as long); the softmax writes of all layers added before they are summed over the nodes of a molecule;
neighbours summed by PyG's scatter (its sparse EdgeIndex is no quicker here). `--compile` is torch.compile on top, with shapes left open.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch_geometric
from rdkit import Chem, rdBase
from torch_geometric.data import Batch, Data
from torch_geometric.nn import MessagePassing, global_add_pool

sys.path.insert(0, str(Path(__file__).parent))
from _splits import read

DEPTH, WIDTH, LENGTH, HIDDEN, MAX_DEGREE, BATCH = 4, 20, 50, 100, 5, 100
ELEMENTS = ("C N O S F Si P Cl Br Mg Na Ca Fe As Al I B V K Tl Yb Sb Sn Ag Pd Co Se Ti Zn H Li Ge Cu Au Ni Cd In Mn Zr Cr Pt Hg Pb").split()
BONDS = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)


def one_of(value, count):
    """Ones and zeros, (count,): which of 0 .. count - 1; the last also for more."""
    return np.eye(count, dtype=np.float32)[min(value, count - 1)]


def atom_features(atom):
    """(62,): element (44, the last for others), degree (6), hydrogens (5), implicit valence (6), aromatic."""
    symbol = atom.GetSymbol()
    element = ELEMENTS.index(symbol) if symbol in ELEMENTS else len(ELEMENTS)
    valence = atom.GetNumImplicitHs()  # the implicit valence, by the name that RDKit keeps
    parts = (one_of(element, 44), one_of(atom.GetDegree(), 6), one_of(atom.GetTotalNumHs(), 5), one_of(valence, 6))
    return np.concatenate([*parts, [atom.GetIsAromatic()]])


def bond_features(bond):
    """(6,): single, double, triple, aromatic; conjugated; in a ring."""
    return [bond.GetBondType() == kind for kind in BONDS] + [bond.GetIsConjugated(), bond.IsInRing()]


def molecule(smiles, y):
    """One molecule, each bond once in either direction."""
    mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise ValueError(f"RDKit does not read {smiles!r}")
    if (most := max(atom.GetDegree() for atom in mol.GetAtoms())) > MAX_DEGREE:
        raise ValueError(f"{smiles!r} has an atom with {most} neighbours; at most {MAX_DEGREE} expected")
    x = torch.tensor(np.array([atom_features(atom) for atom in mol.GetAtoms()]), dtype=torch.float32)
    ends = torch.tensor([(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()], dtype=torch.long).reshape(-1, 2)
    features = torch.tensor([bond_features(b) for b in mol.GetBonds()], dtype=torch.float32).reshape(-1, 6)
    edge_index = torch.cat([ends, ends.flip(1)]).T.contiguous()
    sums = torch.zeros(len(x), 6).index_add_(0, edge_index[1], torch.cat([features, features]))
    return Data(x=x, edge_index=edge_index, edge_sums=sums, y=torch.tensor([y], dtype=torch.float32))


def collate(molecules):
    """What the network reads of a batch: nodes sorted by degree, edges, sums of bond features, molecule of each node; counts; targets."""
    batch = Batch.from_data_list(molecules)
    degree = torch.bincount(batch.edge_index[1], minlength=batch.num_nodes)
    order = torch.sort(degree, stable=True).indices
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    counts = torch.bincount(degree, minlength=MAX_DEGREE + 1).tolist()
    return (batch.x[order], place[batch.edge_index], batch.edge_sums[order], batch.batch[order], counts, batch.num_graphs), batch.y


class Convolution(MessagePassing):
    """x_a S + b + (sum over neighbours of [x_b, e_ab]) H^d, with d the number of neighbours."""

    def __init__(self, inputs, edges):
        super().__init__(aggr="add")
        self.own = torch.nn.Linear(inputs, WIDTH)
        self.by_degree = torch.nn.ParameterList(
            torch.randn(inputs + edges, WIDTH) / (inputs + edges) ** 0.5 for _ in range(MAX_DEGREE)
        )  # of degree 1, 2, ...

    def forward(self, x, edge_index, edge_sums, counts):
        alone, *slabs = torch.cat([self.propagate(edge_index, x=x), edge_sums], dim=1).split(counts)
        parts = [slab @ weights for slab, weights in zip(slabs, self.by_degree, strict=True)]
        return self.own(x) + torch.cat([alone.new_zeros(len(alone), WIDTH), *parts])


class Network(torch.nn.Module):
    """The fingerprint, a hidden layer of rectified linear units and one output."""

    def __init__(self, inputs=62, edges=6):
        super().__init__()
        sizes = [inputs] + [WIDTH] * DEPTH
        self.convolutions = torch.nn.ModuleList(Convolution(size, edges) for size in sizes[:-1])
        self.writes = torch.nn.ModuleList(torch.nn.Linear(size, LENGTH) for size in sizes)
        self.hidden, self.out = torch.nn.Linear(LENGTH, HIDDEN), torch.nn.Linear(HIDDEN, 1)

    def forward(self, x, edge_index, edge_sums, of_molecule, counts, num_molecules):
        written = torch.softmax(self.writes[0](x), 1)
        for convolution, write in zip(self.convolutions, self.writes[1:], strict=True):
            x = torch.relu(convolution(x, edge_index, edge_sums, counts))
            written = written + torch.softmax(write(x), 1)
        fingerprint = global_add_pool(written, of_molecule, num_molecules)
        return self.out(torch.relu(self.hidden(fingerprint)))[:, 0]


def prepared(path):
    """All batches in the order of the file, targets standardised, and the median seconds of collating them."""
    smiles, y = read(path)
    molecules = [molecule(s, value) for s, value in zip(smiles, (y - y.mean()) / y.std(), strict=True)]
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        batches = [collate(molecules[i : i + BATCH]) for i in range(0, len(molecules), BATCH)]
        seconds.append(time.perf_counter() - begun)
    return batches, statistics.median(seconds)


def epoch_of(batches, compiled, clock):
    """The network, and a function that runs one epoch and returns its seconds; warmed up."""
    network = Network()
    called = torch.compile(network, dynamic=True) if compiled else network

    def epoch():
        begun = clock()
        for inputs, y in batches:
            network.zero_grad()
            ((called(*inputs) - y) ** 2).mean().backward()
        return clock() - begun

    for _ in range(3):
        epoch()
    return network, epoch


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=20, help="epochs that are timed")
    parser.add_argument("--compile", action="store_true", help="torch.compile; needs a C++ compiler")
    parser.add_argument("--cpu", action="store_true", help="seconds of all cores together, whatever runs beside, and not of wall time")
    parser.add_argument("--serve", action="store_true", help="an epoch for each line of standard input")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    torch._dynamo.config.fail_on_recompile_limit_hit = True  # by default it goes on uncompiled and says nothing
    batches, collation = prepared(options.data)
    begun = time.perf_counter()
    network, epoch = epoch_of(batches, options.compile, time.process_time if options.cpu else time.perf_counter)
    told = {
        "versions": {"torch": torch.__version__, "torch_geometric": torch_geometric.__version__, "rdkit": rdBase.rdkitVersion},
        "threads": torch.get_num_threads(),
        "compiled": options.compile,
        "clock": "cpu" if options.cpu else "wall",
        "parameters": sum(p.numel() for p in network.parameters()),
        "molecules": sum(len(y) for _, y in batches),
        "batches": len(batches),
        "collation_seconds": collation,
        "warmup_seconds": time.perf_counter() - begun,
    }
    if options.serve:
        print(json.dumps(told), flush=True)
        for _ in sys.stdin:
            print(epoch(), flush=True)
    else:
        times = sorted(epoch() for _ in range(options.repeats))
        print(json.dumps(told | {"epoch_seconds": statistics.median(times), "fastest": times[0], "slowest": times[-1]}))


if __name__ == "__main__":
    main()
