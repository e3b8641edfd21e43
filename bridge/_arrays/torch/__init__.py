"""Tensors of PyTorch."""

from bridge._arrays.torch.backend import FACE as FACE
from bridge._arrays.torch.dtypes import dtype_name as dtype_name
from bridge._arrays.torch.isolation import (
    aside as aside,
    recording as recording,
    transforming as transforming,
    unwrapped as unwrapped,
)
