"""Programs as code of JAX."""
