"""`vigil train`: features and labels to a run."""
