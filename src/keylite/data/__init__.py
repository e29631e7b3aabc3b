"""Labelled images: the data set, its file formats, its examples, and the rendered gauges."""
