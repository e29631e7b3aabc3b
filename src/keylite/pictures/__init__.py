"""Overlays on images, charts, and the page for browsers."""
