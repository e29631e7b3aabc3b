"""Points of many images: which images, how points are written, and the same on a cluster."""
