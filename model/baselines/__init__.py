"""Published detection methods, one per file, that the tables compare with the joint model."""
