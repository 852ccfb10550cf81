"""What loading must cost, from the headers alone."""
