"""Clips to vectors: the backbones, their weights, and how they run on a device."""
