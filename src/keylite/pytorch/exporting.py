"""From a model file to `.onnx`: pixels in, raw head out, the description inside.

The one maker of ONNX files, whatever framework trained the model. Knows nothing of budgets and certificates.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch

from keylite.pytorch.model import PixelModel, load_model
from keylite.runtime.files import replacing
from keylite.runtime.modelfile import KEY
from keylite.runtime.spec import ModelSpec, encode_spec

OPSET = 20
SUFFIX = ".onnx"


def export(parent: Path, out: Path, spec: ModelSpec) -> None:
    """Write the network of a `.safetensors` model file as ONNX with this spec inside, whole or not at all.

    Input `pixels`: uint8 (batch, H, W, 3) RGB. Output `raw`: float32 (batch, K, C). Normalisation is in the graph; the
    batch is free.
    """
    network, parent_spec = load_model(parent)
    model = PixelModel(network, parent_spec.mean, parent_spec.std).eval()
    width, height = spec.size
    pixels = torch.zeros(2, height, width, 3, dtype=torch.uint8)
    with _quiet():
        program = torch.onnx.export(
            model,
            (pixels,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["pixels"],
            output_names=["raw"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    proto = program.model_proto  # type: ignore[union-attr]
    onnx.helper.set_model_props(proto, {KEY: encode_spec(spec)})
    onnx.checker.check_model(proto)
    with replacing(out) as beside:
        onnx.save(proto, beside)


@contextlib.contextmanager
def _quiet():  # noqa: ANN202
    """Without the exporter's progress lines and its warnings about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
