"""Overlays on images, and charts."""
