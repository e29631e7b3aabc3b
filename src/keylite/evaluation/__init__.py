"""Models measured: predictions, metrics, reports, what scores mean, and time."""
