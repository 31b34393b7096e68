"""`vigil serve`: RESULTS as a site, where several people review events together."""
