"""The capture: what a run leaves behind, the wire it comes over, and the file that keeps it."""
