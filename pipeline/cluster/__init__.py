"""Extraction on the nodes of a cluster: one engine per device, fed by the command's process."""
