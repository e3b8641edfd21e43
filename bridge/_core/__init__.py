"""The parts that all frameworks share: Ops, specs, trees, graphs, errors, protocols."""
