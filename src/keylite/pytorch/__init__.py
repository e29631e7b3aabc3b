"""keylite on PyTorch: the plain network, its losses, training on Lightning, and ONNX export."""

import sys

if "tensorflow" in sys.modules and "triton" not in sys.modules:
    # Triton's LLVM, loaded after TensorFlow's, ends the process; without it torch.compile alone is lost.
    sys.modules["triton"] = None  # type: ignore[assignment]

from keylite.pytorch.losses import loss
from keylite.pytorch.model import EfficientNetLiteRegressor, load_model, save_model

__all__ = ["EfficientNetLiteRegressor", "load_model", "loss", "save_model"]
