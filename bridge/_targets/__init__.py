"""One module per framework: call sites there."""
