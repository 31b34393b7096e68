"""`vigil dataset`: whether a published dataset is complete."""
