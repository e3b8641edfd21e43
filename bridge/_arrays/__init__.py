"""One module per framework: buffers, DLPack, streams, dtypes."""
