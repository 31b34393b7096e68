"""`vigil explain`: why the model gives a moment of a video its score."""
