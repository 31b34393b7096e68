"""The generated corpus: CCTV-like videos for the demo and the tests."""
