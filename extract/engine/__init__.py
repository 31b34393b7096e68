"""The extraction engine: drives decoding and networks, and writes feature files."""
