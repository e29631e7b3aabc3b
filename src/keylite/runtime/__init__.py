"""What a deployed predictor needs and training shares: numpy, OpenCV and msgspec only."""
