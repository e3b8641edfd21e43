"""Arrays of MLX."""

from bridge._arrays.mlx._face import FACE as FACE
from bridge._arrays.mlx._graph import placeholder as placeholder, transforming as transforming
from bridge._arrays.mlx._memory import dtype_of as dtype_of
from bridge._arrays.mlx._streams import computed as computed, computing as computing
