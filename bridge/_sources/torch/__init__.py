"""Functions of PyTorch as Ops, transformed by torch.func."""

from bridge._sources.torch.source import SOURCE as SOURCE
