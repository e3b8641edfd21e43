"""Functions on NumPy arrays, without autodiff, as sources of derivatives by rules."""
