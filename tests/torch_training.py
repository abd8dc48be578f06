"""Trains a small network on one process or several; tests/test_torch_module.py runs it.

Arguments: ours or theirs, the number of processes, the number of this one, the address of a file where they meet.
Prints the losses.
"""

import json
import os
import sys

import torch
from torch.nn.parallel import DistributedDataParallel

import pyrnn.bridges.torch

STEPS, T, B, H = 25, 30, 8, 16


class Network(torch.nn.Module):
    def __init__(self, RNN):
        super().__init__()
        self.rnn = RNN(2, H, num_layers=2, bidirectional=True, batch_first=True)
        self.output = torch.nn.Linear(2 * H, 1)

    def forward(self, x):
        return self.output(self.rnn(x)[0])


def batch():
    """Waves of random phase and frequency, and their next values."""
    wave = torch.sin(6 * torch.rand(B, 1) + torch.arange(T + 1) * (0.2 + 0.3 * torch.rand(B, 1)))
    x = torch.stack([wave[:, :-1], wave[:, :-1].abs()], dim=2)
    return x, wave[:, 1:]


def main(whose, processes, rank, meeting):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Network(pyrnn.bridges.torch.RNN if whose == "ours" else torch.nn.RNN)
    if processes > 1:
        torch.distributed.init_process_group("gloo", init_method=meeting, world_size=processes, rank=rank)
        model = DistributedDataParallel(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(STEPS):
        x, target = batch()  # the same in all processes, of which each takes its part
        x, target = (a.tensor_split(processes)[rank] for a in (x, target))
        optimiser.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x)[:, :, 0], target)
        loss.backward()
        optimiser.step()
        mean = loss.detach() / processes
        if processes > 1:
            torch.distributed.all_reduce(mean)
        losses.append(mean.item())
    if rank == 0:
        print(json.dumps(losses), flush=True)
    if processes > 1:
        torch.distributed.destroy_process_group()
        # PyTorch 2.13 aborts now and then when the interpreter ends, with torch.nn.RNN too: 2 of 14 runs.
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
