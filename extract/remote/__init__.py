"""Videos behind addresses: what is allowed, listed, and fetched to local disk."""
