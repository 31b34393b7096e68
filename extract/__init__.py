"""Raw videos to feature files: decoding, clip geometry, backbones and the HDF5 store."""
