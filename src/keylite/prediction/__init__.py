"""Points of many images: where they come from, how they are written, and shards of them on a cluster."""
