"""keylite on TensorFlow: the plain Keras network, its losses, and training with `fit`."""

import os

if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":  # before Keras is imported: the other may be missing
    raise ValueError(
        f"KERAS_BACKEND: expected tensorflow, got {os.environ['KERAS_BACKEND']!r}; unset it to use keylite.tensorflow"
    )


def _import_tensorflow() -> None:
    """Import TensorFlow; where TF_CPP_MIN_LOG_LEVEL asks for fewer lines, without those that it prints anyway."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") == "0":
        import tensorflow

        return
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        import tensorflow  # noqa: F401
    finally:
        os.dup2(kept, 2)
        os.close(kept)


_import_tensorflow()

from keylite.tensorflow.losses import loss  # noqa: E402
from keylite.tensorflow.model import EfficientNetLiteRegressor, load_model, save_model  # noqa: E402

__all__ = ["EfficientNetLiteRegressor", "load_model", "loss", "save_model"]
