"""Ops as native differentiable functions of tensors."""

from bridge._targets.torch._function import FACE as FACE
