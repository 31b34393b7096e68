"""`vigil score` and `vigil report`: videos to results that a person reads."""
