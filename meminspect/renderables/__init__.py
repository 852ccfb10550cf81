"""Pure drawing, for the command line and the app alike: data in, rich text out."""
