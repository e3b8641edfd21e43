"""The tensors of PyTorch, and the isolation of computations from their caller."""

from bridge._arrays.torch.backend import ARRAYS as ARRAYS
from bridge._arrays.torch.dtypes import dtype_name as dtype_name
from bridge._arrays.torch.upstream.isolation import (
    in_dispatch_mode as in_dispatch_mode,
    suspend_transforms as suspend_transforms,
    transforming as transforming,
    unwrap as unwrap,
    unwrap_dead as unwrap_dead,
)
