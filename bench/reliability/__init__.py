"""Tests of vigil's reliability: kills, damaged files, hours of work."""
