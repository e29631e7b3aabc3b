"""keylite on PyTorch: the plain network, its losses, training on Lightning, and ONNX export."""

from keylite.pytorch.losses import loss
from keylite.pytorch.model import EfficientNetLiteRegressor, load_model, save_model

__all__ = ["EfficientNetLiteRegressor", "load_model", "loss", "save_model"]
