"""Raw videos to feature files: decoding, clip geometry, backbones and the HDF5 store.

``vigil.extract(videos, out)`` calls `pipeline.api.extract`: this package is a function, too.
"""
