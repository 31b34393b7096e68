"""`vigil features import` and `export`: features of other programs."""
