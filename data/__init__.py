"""Labels, splits and bags: from annotation files and feature files to the input of a model."""
