"""Modules of torch that tests of modules take to other frameworks."""

import torch
from torch import nn


class Normalized(nn.Module):
    """A network with a normalization and numbered layers."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 5)
        self.norm = nn.BatchNorm1d(5)
        self.rest = nn.Sequential(nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))

    def encode(self, x):
        return torch.tanh(self.first(x))

    def forward(self, x):
        return self.rest(self.norm(self.first(x)))


class Dropping(nn.Module):
    """Half of its argument, at random."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(x)
