"""Reading and writing label files, one module per format."""
