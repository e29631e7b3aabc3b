"""keylite on PyTorch: the plain network, its losses, training on Lightning, and ONNX export."""

import logging
import os
import sys

if "OMP_WAIT_POLICY" not in os.environ:
    # How long a thread asks for work before it sleeps, read as torch loads. With GNU's default, threads hold each other
    # up on cores that other work has, too: a step took two to four times as long. On idle cores it takes as long.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

if "tensorflow" in sys.modules and "triton" not in sys.modules:
    # Triton's LLVM, loaded after TensorFlow's, ends the process; without it torch.compile alone is lost.
    sys.modules["triton"] = None  # type: ignore[assignment]

logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # it warns where Triton is missing

from keylite.pytorch.losses import loss  # noqa: E402
from keylite.pytorch.model import EfficientNetLiteRegressor, load_model, save_model  # noqa: E402

__all__ = ["EfficientNetLiteRegressor", "load_model", "loss", "save_model"]
