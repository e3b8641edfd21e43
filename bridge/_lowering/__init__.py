"""Programs as code of a target, a module for each target."""
