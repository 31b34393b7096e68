"""The report of RESULTS: a page that opens from disk, its program, and its data."""
