"""The state of modules of torch, and one whose buffers are tied."""

import torch
from torch import nn


def state(module):
    """What a module holds, by identity and value."""
    named = [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]
    attributes = [(id(part), list(vars(part))) for part in module.modules()]
    tensors = [(name, id(x), type(x), x.detach().numpy().tobytes()) for name, x in named]
    return tensors, attributes, [part.training for part in module.modules()]


class TiedBuffers(nn.Module):
    def __init__(self, place):
        super().__init__()
        self.place = place
        self.register_buffer("mean", torch.ones(3))
        self.part = nn.Module()
        self.part.register_buffer("mean", self.mean)

    def forward(self, x):
        if self.place:
            self.part.mean.add_(x.detach().mean(0))
        else:
            self.part.mean = self.part.mean + 1
        return x * self.mean * self.part.mean
