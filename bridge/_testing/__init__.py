"""The parts of `bridge.testing`, none of which is imported before it is used."""
