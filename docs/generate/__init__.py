"""Pages and tables that follow from running the package, so that nobody has to type them."""
