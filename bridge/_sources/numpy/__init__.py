"""Functions on NumPy arrays, without autodiff, as sources of derivatives by rules."""

from bridge._sources.numpy.source import SOURCE as SOURCE
