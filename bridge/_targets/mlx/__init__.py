"""Call sites in MLX, for functions that live elsewhere."""

from bridge._targets.mlx._function import FACE as FACE
