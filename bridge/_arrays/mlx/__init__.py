"""Arrays of MLX."""

from bridge._arrays.mlx._face import FACE as FACE
from bridge._arrays.mlx._memory import dtype_of as dtype_of
from bridge._arrays.mlx._streams import computing as computing
