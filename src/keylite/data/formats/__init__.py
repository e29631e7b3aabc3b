"""Label files, a module per format."""
