"""The neural fingerprint network in PyTorch Geometric: run by an environment that has torch and torch_geometric, none of Luciole's.

    python benchmarks/_pyg.py graphs.npz batch_size threads

It reads saved graphs, goes once forwards and backwards through all batches to warm up, and then does so again for each line that it
reads, and prints the seconds. Collation is done before: what is timed is the network alone, as on our side.
"""

import json
import sys
import time

import numpy as np
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.nn import MessagePassing, global_add_pool
from torch_geometric.utils import degree

DEPTH, WIDTH, LENGTH, HIDDEN, MAX_DEGREE = 4, 20, 50, 100, 5


class Convolution(MessagePassing):
    """x_a S + (sum over neighbours of [x_b, e_ab]) H^d + b, as PyG's own MFConv does it: a product per degree."""

    def __init__(self, inputs, edges):
        super().__init__(aggr="add")
        self.own = torch.nn.Linear(inputs, WIDTH)
        self.by_degree = torch.nn.ModuleList(torch.nn.Linear(inputs + edges, WIDTH, bias=False) for _ in range(MAX_DEGREE))

    def forward(self, x, edge_index, edge_sums, rows):
        around = torch.cat([self.propagate(edge_index, x=x), edge_sums], dim=1)
        out = torch.zeros(len(x), WIDTH)
        for linear, some in zip(self.by_degree, rows, strict=True):
            out = out.index_copy(0, some, linear(around.index_select(0, some)))
        return self.own(x) + out


class Network(torch.nn.Module):
    def __init__(self, inputs, edges):
        super().__init__()
        sizes = [inputs] + [WIDTH] * DEPTH
        self.convolutions = torch.nn.ModuleList(Convolution(size, edges) for size in sizes[:-1])
        self.writes = torch.nn.ModuleList(torch.nn.Linear(size, LENGTH) for size in sizes)
        self.hidden, self.out = torch.nn.Linear(LENGTH, HIDDEN), torch.nn.Linear(HIDDEN, 1)

    def forward(self, batch):
        x = batch.x
        f = global_add_pool(torch.softmax(self.writes[0](x), 1), batch.batch, batch.num_graphs)
        for convolution, write in zip(self.convolutions, self.writes[1:], strict=True):
            x = torch.relu(convolution(x, batch.edge_index, batch.edge_sums, batch.rows))
            f = f + global_add_pool(torch.softmax(write(x), 1), batch.batch, batch.num_graphs)
        return self.out(torch.relu(self.hidden(f)))[:, 0]


def batches_of(path, size):
    file = np.load(path)
    graphs, nodes, edges = [], np.cumsum(file["num_nodes"])[:-1], np.cumsum(file["num_edges"])[:-1]
    for x, ends, e in zip(
        np.split(file["nodes"], nodes), np.split(file["edges"], edges), np.split(file["edge_features"], edges), strict=True
    ):
        both = torch.from_numpy(np.concatenate([ends, ends[:, ::-1]]).T.astype(np.int64).copy())
        sums = torch.zeros(len(x), e.shape[1]).index_add_(0, both[1], torch.from_numpy(np.concatenate([e, e])))
        graphs.append(Data(x=torch.from_numpy(x), edge_index=both, edge_sums=sums))
    found = []
    for begin in range(0, len(graphs), size):
        batch = Batch.from_data_list(graphs[begin : begin + size])
        count = degree(batch.edge_index[1], batch.num_nodes).long()
        batch.rows = [(count == d).nonzero()[:, 0] for d in range(1, MAX_DEGREE + 1)]
        found.append(batch)
    return found


def main():
    path, size, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    batches = batches_of(path, size)
    network = Network(batches[0].x.shape[1], batches[0].edge_sums.shape[1])
    targets = [torch.randn(b.num_graphs) for b in batches]

    def epoch():
        begun = time.perf_counter()
        for batch, y in zip(batches, targets, strict=True):
            network.zero_grad()
            ((network(batch) - y) ** 2).mean().backward()
        return time.perf_counter() - begun

    for _ in range(3):
        epoch()
    import torch_geometric

    parameters = sum(p.numel() for p in network.parameters())
    print(json.dumps({"torch": torch.__version__, "torch_geometric": torch_geometric.__version__, "parameters": parameters}), flush=True)
    for _ in sys.stdin:
        print(epoch(), flush=True)


if __name__ == "__main__":
    main()
