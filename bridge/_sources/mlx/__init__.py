"""Functions of MLX as Ops, transformed by MLX."""

from bridge._sources.mlx.source import SOURCE as SOURCE
