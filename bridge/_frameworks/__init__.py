"""What wrapping a function needs to know of the frameworks, none of which it imports."""
