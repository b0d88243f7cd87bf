"""One concern, one file."""
