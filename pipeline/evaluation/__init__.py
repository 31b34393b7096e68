"""`vigil evaluate` and `vigil compare`: how good a run is."""
