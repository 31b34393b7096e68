"""Labels, splits and bags: from annotation files and feature files to what a model is fed."""
