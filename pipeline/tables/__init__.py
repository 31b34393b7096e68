"""`vigil bench-methods`: many methods over several seeds in one table."""
