"""Live: recordings and streams are scored as they come, and alarms are raised."""
