"""PyTorch as a source: Ops of its functions, transformed by torch.func and autograd."""

from bridge._sources.torch.source import SOURCE as SOURCE
