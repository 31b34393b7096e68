"""`vigil extract`, `features show`, `features verify` and `weights`."""
