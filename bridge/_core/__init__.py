"""What is the same for all frameworks: Ops, specs, trees, graphs, errors, protocols."""
