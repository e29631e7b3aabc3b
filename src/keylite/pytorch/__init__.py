"""keylite on PyTorch: the plain network, its losses, training on Lightning, and ONNX export."""

import logging
import os
import sys

if "OMP_WAIT_POLICY" not in os.environ:
    # How long a waiting thread of GNU OpenMP asks for work before it sleeps; read while torch is imported. With the
    # default, threads hinder each other if other programs use the cores: a step took two to four times as long. On
    # idle cores the value changes nothing.
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

if "tensorflow" in sys.modules and "triton" not in sys.modules:
    # If the LLVM of Triton is loaded after that of TensorFlow, the process crashes. Only torch.compile needs Triton.
    sys.modules["triton"] = None  # type: ignore[assignment]

logging.getLogger("torch.utils.flop_counter").setLevel(logging.ERROR)  # it warns if Triton is missing

from keylite.runtime.packages import without_tqdm_warning  # noqa: E402

with without_tqdm_warning():
    from keylite.pytorch.losses import loss
    from keylite.pytorch.model import EfficientNetLiteRegressor, load_model, save_model

__all__ = ["EfficientNetLiteRegressor", "load_model", "loss", "save_model"]
