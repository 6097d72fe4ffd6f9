"""Golden values from reference implementations, and the scripts that made them."""
