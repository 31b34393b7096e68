"""Files to clips: decoders, the processes that run them, and finding videos."""
