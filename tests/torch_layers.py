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


class Dropped(nn.Sequential):
    """Layers, of which half of the results are dropped in training."""

    def forward(self, x):
        return nn.functional.dropout(super().forward(x), 0.5, self.training)


class Mixed(nn.Module):
    """Parameters of all kinds and names."""

    def __init__(self):
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(3)) for _ in range(2)])
        self.named = nn.ParameterDict(
            {"a": nn.Parameter(torch.randn(3)), "1": nn.Parameter(torch.randn(3))}
        )
        self._private = nn.Parameter(torch.randn(3))
        self.frozen = nn.Parameter(torch.randn(3), requires_grad=False)
        self.indices = nn.Parameter(torch.tensor([2, 0, 1]), requires_grad=False)
        self._layers = nn.ModuleList([nn.Linear(3, 3), nn.ModuleList([nn.Linear(3, 3)])])
        self.keys, self.state = nn.Linear(3, 2), nn.Parameter(torch.randn(2))
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 2.0]), persistent=False)
        self.register_buffer("absent", None)

    def forward(self, x):
        x = x * self.weights[0] + self.weights[1] * self.named["a"] + self.named["1"] * self.mask
        x = (x + self._private * self.frozen)[..., self.indices]
        return self.keys(self._layers[0](self._layers[1][0](x))) * self.state


class Tied(nn.Module):
    """One weight in two layers, and one layer under two names."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.again = self.first

    def forward(self, x):
        return self.again(torch.tanh(self.second(torch.tanh(self.first(x)))))


KINDS = {
    "mixed": Mixed,
    "tied": Tied,
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)),
    "numbered": lambda: nn.Sequential(nn.Tanh(), nn.Sequential(nn.Linear(3, 2)), nn.Tanh()),
    "recurrent": lambda: nn.GRUCell(3, 2),
    "compiled": lambda: torch.compile(nn.Linear(3, 2), backend="eager"),
    "transformer": lambda: nn.TransformerEncoderLayer(3, 1, 4, dropout=0.0),
    "without affine": lambda: nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False)),
    "bfloat16": lambda: nn.Sequential(nn.Linear(3, 2)).bfloat16(),
}
