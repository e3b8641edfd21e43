"""Arrays of NumPy, in which tests say what goes in and compare what comes out."""
