"""Functions of PyTorch as Ops, transformed by torch.func."""

from bridge._sources.torch._source import FACE as FACE
