"""The built-in data set: pictures of gauges, and the code that paints them."""
