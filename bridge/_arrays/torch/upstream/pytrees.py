"""The pytrees of torch: classes are registered with them; required."""

import torch.utils._pytree as pytree

__all__ = ["pytree"]
