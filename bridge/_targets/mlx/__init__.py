"""Call sites in MLX for functions of other frameworks."""

from bridge._targets.mlx.target import TARGET as TARGET
