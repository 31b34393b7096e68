"""A model's scores and the truth, as numbers, events and plots."""
