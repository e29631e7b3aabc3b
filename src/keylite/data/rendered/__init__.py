"""The built-in data set: gauges, and what paints them."""
