"""Work on the nodes of a Ray cluster, handed out by the command's process."""
