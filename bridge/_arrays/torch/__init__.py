"""Tensors of PyTorch."""

from bridge._arrays.torch._apart import (
    aside as aside,
    recording as recording,
    transforming as transforming,
    unwrapped as unwrapped,
)
from bridge._arrays.torch._dtypes import dtype_name as dtype_name
from bridge._arrays.torch._tensors import FACE as FACE
