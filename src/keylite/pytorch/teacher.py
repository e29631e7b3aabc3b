"""The teacher in PyTorch: a trained network that gives its raw values for the student's pixels, without gradients."""

from __future__ import annotations

import torch

from keylite.pytorch.model import PixelModel, load_model
from keylite.training.teacher import Teacher


class TeacherNetwork:
    """A frozen network in inference mode. It is no module, so that no checkpoint, optimizer or process gets it.

    Call it with pixels uint8 (B, H, W, 3). It gives raw values float32 (B, K, C), by the student's keypoints. Pixels of
    another size than its own are resized (bilinear; averaged if they shrink).
    """

    def __init__(self, teacher: Teacher) -> None:
        self.facts, spec = teacher, teacher.spec
        network, _ = load_model(teacher.path, spec)
        model = PixelModel(network, spec.mean, spec.std).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = model.requires_grad_(False).eval()
        self.places = list(teacher.places)
        self.reordered = self.places != sorted(self.places)

    def to(self, device: torch.device) -> None:
        """Move the network to a device."""
        self.model.to(device)

    @torch.no_grad()
    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        width, height = self.facts.spec.size
        if pixels.shape[1:3] != (height, width):
            images = pixels.permute(0, 3, 1, 2).float()
            options = {"mode": "bilinear", "align_corners": False, "antialias": True}
            pixels = torch.nn.functional.interpolate(images, (height, width), **options).permute(0, 2, 3, 1)
        with torch.autocast(pixels.device.type, enabled=False):  # points of half precision would be off by px
            raw = self.model(pixels)
        return raw[:, self.places] if self.reordered else raw
