"""Commands: extraction, training, evaluation, scoring and reports."""
