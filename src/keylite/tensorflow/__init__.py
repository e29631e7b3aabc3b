"""keylite on TensorFlow: the plain Keras network, its losses, and training with `fit`."""

import os
import tempfile

KNOWN = (b"oneDNN custom operations are on", b"before absl::InitializeLog()")  # what it says whatever it is told


def _require_backend(name: str) -> None:
    if name != "tensorflow":
        raise ValueError(f"KERAS_BACKEND: expected tensorflow, got {name!r}; unset it to use keylite.tensorflow")


def _import_tensorflow() -> None:
    """Import TensorFlow; where TF_CPP_MIN_LOG_LEVEL asks for fewer lines, without those of KNOWN."""
    try:
        kept = os.dup(2) if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") != "0" else None
    except OSError:  # standard error is closed
        kept = None
    if kept is None:
        import tensorflow

        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            said.seek(0)
            os.write(2, b"".join(line for line in said if not any(known in line for known in KNOWN)))


_require_backend(os.environ.setdefault("KERAS_BACKEND", "tensorflow"))  # before Keras reads its own file of settings
_import_tensorflow()

import keras  # noqa: E402

_require_backend(keras.backend.backend())  # it may have been imported before

from keylite.tensorflow.losses import loss  # noqa: E402
from keylite.tensorflow.model import EfficientNetLiteRegressor, load_model, save_model  # noqa: E402

__all__ = ["EfficientNetLiteRegressor", "load_model", "loss", "save_model"]
