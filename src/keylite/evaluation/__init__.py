"""Measuring models: predictions, metrics, reports, what scores mean, and time."""
