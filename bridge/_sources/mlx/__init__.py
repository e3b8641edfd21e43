"""Functions of MLX as Ops, transformed by MLX."""

from bridge._sources.mlx._source import FACE as FACE
