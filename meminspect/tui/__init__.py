"""The terminal app: a reader of captures."""
