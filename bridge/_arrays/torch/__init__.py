"""Tensors of PyTorch."""

from bridge._arrays.torch._dtypes import dtype_name as dtype_name
from bridge._arrays.torch._levels import (
    transforming as transforming,
    untransformed as untransformed,
)
from bridge._arrays.torch._tensors import FACE as FACE
