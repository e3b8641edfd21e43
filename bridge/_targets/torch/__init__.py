"""Ops as native differentiable functions of tensors."""

from bridge._targets.torch.target import TARGET as TARGET
