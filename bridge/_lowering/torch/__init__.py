"""Graphs in the core vocabulary as code of torch."""

from bridge._lowering.torch.execute import execute_lowered as execute_lowered
