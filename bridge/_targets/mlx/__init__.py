"""Call sites in MLX, for functions that live elsewhere."""

from bridge._targets.mlx.target import TARGET as TARGET
