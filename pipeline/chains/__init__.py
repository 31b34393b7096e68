"""`vigil demo` and `vigil reproduce`: commands that run other commands."""
