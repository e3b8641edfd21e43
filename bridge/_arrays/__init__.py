"""The arrays of each framework: their buffers, dtypes, devices and streams."""
