"""Label files, and what chooses a reader."""
