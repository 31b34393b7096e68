"""What is done to vigil to see whether it keeps its promises: kills, damage, hours of work."""
