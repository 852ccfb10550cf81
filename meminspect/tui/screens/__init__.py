"""One screen a file, its rules beside it."""
