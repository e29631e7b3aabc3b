"""keylite on TensorFlow: the plain Keras network, its losses, and training with `fit`."""

import contextlib
import os

from keylite.runtime.chatter import without_chatter
from keylite.runtime.errors import ArgumentError
from keylite.runtime.words import quoted


def _require_backend(name: str) -> None:
    if name != "tensorflow":
        raise ArgumentError(
            f"KERAS_BACKEND: expected tensorflow, got {quoted(name)}; unset it to use keylite.tensorflow"
        )


def _import_tensorflow() -> None:
    """Import TensorFlow. If TF_CPP_MIN_LOG_LEVEL asks for fewer lines, hide also those that ignore this variable."""
    all_lines = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") == "0"
    with contextlib.nullcontext() if all_lines else without_chatter():
        import tensorflow  # noqa: F401


_require_backend(
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
)  # must be set before Keras reads its own settings
_import_tensorflow()

import keras  # noqa: E402

_require_backend(keras.backend.backend())  # Keras may have been imported before, with another backend

from keylite.tensorflow.losses import loss  # noqa: E402
from keylite.tensorflow.model import EfficientNetLiteRegressor, load_model, save_model  # noqa: E402

__all__ = ["EfficientNetLiteRegressor", "load_model", "loss", "save_model"]
