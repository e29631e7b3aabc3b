"""Undamaged files, from which every case begins: pictures in all formats, labels of all kinds, model files, a run.

They are small, so that a case costs milliseconds: pictures of at most 160 px, and exported files whose network is one
matrix, written here by hand, beside a checkpoint of a real network.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

import keylite
from keylite.data.rendered.gauges import SKELETON, render_gauge
from keylite.runtime.heads import Regression, Rle
from keylite.runtime.lite import PIXEL_MEAN, PIXEL_STD
from keylite.runtime.modelfile import write_onnx as write_described_onnx
from keylite.runtime.modelfile import write_tflite
from keylite.runtime.spec import FORMAT, Confidence, DataId, ModelSpec, Provenance, encode_spec

INPUT = (32, 32)
LABELLED = 6  # pictures with labels
BACKBONE = "timm:test_efficientnet"  # the smallest that there is
TRAINING = (
    *("--size", "32", "--epochs", "2", "--batch", "2", "--pretrained", "none", "--threads", "1", "--workers", "0"),
    *("--compile", "off", "--device", "cpu"),
)


def make_seeds(folder: Path) -> Path:
    """A folder of undamaged files: pictures/, labels and lists beside their pictures in labels/, and models/."""
    (folder / "labels").mkdir(parents=True, exist_ok=True)
    (folder / "pictures").mkdir(exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    for name, data in pictures().items():
        (folder / "pictures" / name).write_bytes(data)
    for name, data in labels().items():
        (folder / "labels" / name).write_bytes(data)
    write_models(folder / "models")
    return folder


# ---- pictures


def gauge(number: int, side: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """A picture of a gauge, uint8 (side, side, 3) RGB, and its points."""
    image, xy, _ = render_gauge(np.random.default_rng(number), size=side)
    return image, xy


def pictures() -> dict[str, bytes]:
    """File name -> bytes of a picture: each format in the variants that decoders take other paths for."""
    wide = np.ascontiguousarray(gauge(1, 160)[0][:121])  # no multiple of a block
    usual = Image.fromarray(wide)
    exif = Image.Exif()
    exif[274] = 6
    made: dict[str, bytes] = {}

    def save(name: str, image: Image.Image, **options: object) -> None:
        buffer = io.BytesIO()
        image.save(buffer, Image.registered_extensions()[Path(name).suffix], **options)
        made[name] = buffer.getvalue()

    save("baseline.jpg", usual, quality=90)
    save("full_colour.jpg", usual, quality=95, subsampling=0)
    save("progressive.jpg", usual, quality=85, progressive=True)
    save("turned.jpg", usual, quality=85, exif=exif)
    save("optimised.jpg", usual, quality=60, optimize=True)
    save("grey.jpg", usual.convert("L"), quality=90)
    save("cmyk.jpg", usual.convert("CMYK"), quality=90)
    restarts = (cv2.IMWRITE_JPEG_RST_INTERVAL, 4)
    made["restarts.jpg"] = cv2.imencode(".jpg", wide[..., ::-1], restarts)[1].tobytes()
    save("large.jpg", Image.fromarray(cv2.resize(wide, (640, 480))), quality=80)
    deep = wide.astype(np.uint16) * 257
    for suffix in (".png", ".tif"):
        made[f"deep{suffix}"] = cv2.imencode(suffix, deep)[1].tobytes()
        made[f"deep_grey{suffix}"] = cv2.imencode(suffix, deep[..., 0])[1].tobytes()
        save(f"usual{suffix}", usual)
        save(f"alpha{suffix}", usual.convert("RGBA"))
        save(f"bilevel{suffix}", usual.convert("1"))
    save("palette.png", usual.quantize(17))
    save("turned.png", usual, exif=exif)
    save("turned.tif", usual, tiffinfo={274: 8})
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        save(f"{compression}.tif", usual, compression=compression)
    save("lossy.webp", usual, quality=80)
    save("lossless.webp", usual, lossless=True)
    save("alpha.webp", usual.convert("RGBA"), quality=70)
    save("turned.webp", usual, exif=exif)
    save("usual.bmp", usual)
    save("palette.bmp", usual.quantize(200))
    save("usual.gif", usual.quantize(64))
    return made


# ---- labels


def labels() -> dict[str, bytes]:
    """File name -> bytes: pictures, the same labels as COCO, wide CSV and DeepLabCut's, boxes, recipes."""
    made: dict[str, bytes] = {}
    images, annotations = [], []
    for number in range(LABELLED):
        pixels, xy = gauge(number)
        name = f"gauge_{number}.png"
        made[name] = cv2.imencode(".png", pixels[..., ::-1])[1].tobytes()
        images.append({"id": number, "file_name": name, "width": 96, "height": 96, "subject": f"s{number}"})
        stored = np.column_stack([np.round(xy - 0.5, 2), np.full(4, 2)])
        annotations.append(
            {"id": number, "image_id": number, "category_id": 1, "keypoints": stored.ravel().tolist()}
            | {"num_keypoints": 4, "bbox": [2, 2, 92, 92], "area": 8464.0, "iscrowd": 0, "score": 1.0}
        )
    names = list(SKELETON.names)
    category = {"id": 1, "name": "gauge", "keypoints": names, "skeleton": [[1, 2], [1, 3]]}
    coco = {"info": {}, "images": images, "annotations": annotations, "categories": [category]}
    made["labels.json"] = json.dumps(coco).encode()
    rows = [
        [one["file_name"], *np.reshape(a["keypoints"], (4, 3))[:, :2].ravel()]
        for one, a in zip(images, annotations, strict=True)
    ]
    wide = ["file," + ",".join(f"{name}_{axis}" for name in names for axis in "xy")]
    made["labels.csv"] = "\n".join([*wide, *(",".join(map(str, row)) for row in rows), ""]).encode()
    header = [["scorer"] + ["me"] * 8, ["bodyparts", *(n for n in names for _ in "xy")], ["coords", *"xy" * 4]]
    made["dlc.csv"] = "\n".join(",".join(map(str, row)) for row in [*header, *rows, ""]).encode()
    made["boxes.json"] = json.dumps({one["file_name"]: [[2, 2, 94, 94]] for one in images}).encode()
    made["list.txt"] = "\n".join([*(one["file_name"] for one in images), ""]).encode()
    choices = {"head": "regression", "epochs": 2, "batch": 2, "lr": 1e-3, "size": [32, 32], "precision": "32"}
    choices |= {"mirror": [["scale_start", "scale_end"]], "rotate": 10.0, "cache": "off", "strength": "auto"}
    made["recipe.yaml"] = "\n".join(f"{name}: {json.dumps(value)}" for name, value in choices.items()).encode()
    return made


# ---- model files

GAUGES = DataId("gauges", "0" * 64)


def spec_of(framework: str = "pytorch", **changes: object) -> ModelSpec:
    """A description of a model of gauges."""
    provenance = Provenance(
        keylite=keylite.__version__,
        created="2026-01-01T00:00:00Z",
        framework=framework,
        pretrained="none",
        data=GAUGES,
        recipe={"lr": 1e-3},
        versions={"numpy": np.__version__},
        parent=None,
    )
    knots = ((0.0, 0.2), (0.5, 0.1), (1.0, 0.05))
    fields: dict[str, Any] = dict.fromkeys(ModelSpec.__struct_fields__) | {  # what is not given here may be missing
        "format": FORMAT,
        "backbone": BACKBONE,
        "stages": 7,
        "size": INPUT,
        "box": "annotation",
        "padding": 0.25,
        "head": Rle(4, hidden=32),
        "skeleton": SKELETON,
        "category": "gauge",
        "visibility_0": "ignore",
        "visibility_1": "train",
        "normalize": "box_diagonal",
        "mean": PIXEL_MEAN,
        "std": PIXEL_STD,
        "white_level": 65535,
        "mean_shape": ((0.5, 0.5),) * 4,
        "unlearnt": {},
        "precision": "fp32",
        "input_type": "uint8",
        "output": None,
        "weight_scales": None,
        "provenance": provenance,
        "confidence": Confidence((0.5,) * 4, knots, (1.0,) * 4, 20, GAUGES),
    }
    return ModelSpec(**(fields | changes))


def matrix() -> tuple[np.ndarray, np.ndarray]:
    """Weights (3072, 16) and offsets (16,) of the one layer of an exported file: points that follow the picture."""
    rng = np.random.default_rng(3)
    offsets = np.tile([0.4, 0.6, -2.0, -2.0], 4).astype(np.float32)
    return (rng.normal(0, 0.01, (3072, 16))).astype(np.float32), offsets


def write_models(folder: Path) -> None:
    """model.onnx and model.tflite of one matrix, model.safetensors of a real network, and a description apart.

    whole.onnx is model.onnx for whole pictures, without boxes; lite.safetensors is of a network that both twins have.
    """
    write_onnx(folder / "model.onnx", spec_of())
    write_onnx(folder / "whole.onnx", spec_of(box="image", padding=0.0))
    write_litert(folder / "model.tflite")
    write_checkpoint(folder / "model.safetensors", BACKBONE)
    write_checkpoint(folder / "lite.safetensors", "lite0")
    (folder / "spec.json").write_text(encode_spec(spec_of()))


def write_onnx(path: Path, spec: ModelSpec) -> None:
    from onnx import TensorProto, helper, numpy_helper

    weights, offsets = matrix()
    constants = {"shape": np.array([0, 4, 4], np.int64), "weights": weights / 128, "offsets": offsets}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["real"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "offsets"], ["values"]),
        helper.make_node("Reshape", ["values", "shape"], ["points"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gauges",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 32, 32, 3])],
        [helper.make_tensor_value_info("points", TensorProto.FLOAT, ["batch", 4, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    write_described_onnx(path, model.SerializeToString(), spec)


def write_litert(path: Path) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    weights, offsets = matrix()
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description, model.buffers, model.operatorCodes = 3, "gauges", [schema.BufferT()], []
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [0], [6]

    def tensor(name: str, shape: list[int], kind: int, data: bytes = b"") -> None:
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8) if data else None
        model.buffers.append(buffer)
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, shape, kind, len(model.buffers) - 1
        graph.tensors.append(made)

    def operator(code: int, options: int, chosen: object, inputs: list[int], output: int) -> None:
        known = schema.OperatorCodeT()
        known.builtinCode = known.deprecatedBuiltinCode = code
        known.version = 1
        model.operatorCodes.append(known)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = len(model.operatorCodes) - 1, inputs, [output]
        made.builtinOptionsType, made.builtinOptions = options, chosen
        graph.operators.append(made)

    def reshape(shape: list[int]) -> object:
        options = schema.ReshapeOptionsT()
        options.newShape = shape
        return options

    real, whole = schema.TensorType.FLOAT32, schema.TensorType.INT32
    tensor("pixels", [1, 32, 32, 3], real)
    tensor("flat_shape", [2], whole, np.array([1, 3072], np.int32).tobytes())
    tensor("flat", [1, 3072], real)
    tensor("weights", [16, 3072], real, np.ascontiguousarray(weights.T).tobytes())
    tensor("offsets", [16], real, offsets.tobytes())
    tensor("values", [1, 16], real)
    tensor("points", [1, 4, 4], real)
    tensor("points_shape", [3], whole, np.array([1, 4, 4], np.int32).tobytes())
    codes, kinds = schema.BuiltinOperator, schema.BuiltinOptions
    operator(codes.RESHAPE, kinds.ReshapeOptions, reshape([1, 3072]), [0, 1], 2)
    operator(codes.FULLY_CONNECTED, kinds.FullyConnectedOptions, schema.FullyConnectedOptionsT(), [2, 3, 4], 5)
    operator(codes.RESHAPE, kinds.ReshapeOptions, reshape([1, 4, 4]), [5, 7], 6)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    write_tflite(path, bytes(builder.Output()), spec_of(input_type="float32"))


def write_checkpoint(path: Path, backbone: str) -> None:
    import torch

    from keylite.pytorch.model import EfficientNetLiteRegressor, save_model

    torch.manual_seed(0)
    spec = spec_of(head=Regression(4, hidden=32), confidence=None, backbone=backbone)
    save_model(EfficientNetLiteRegressor(4, backbone, head=spec.head, size=INPUT), spec, path)
