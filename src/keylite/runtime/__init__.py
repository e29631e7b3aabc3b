"""What a predictor on a device needs, and training shares; it imports numpy, OpenCV and msgspec alone."""
