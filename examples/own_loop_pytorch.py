"""keylite's network and examples in your own training loop, on rendered gauges. `--help` lists the arguments."""

import argparse

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from keylite import gauges
from keylite.data.augmentation import Augmentation
from keylite.data.examples import Examples
from keylite.pytorch import EfficientNetLiteRegressor

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--images", type=int, default=512, help="gauges to render")
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--size", type=int, default=128, help="px of the network's input")
parser.add_argument("--pretrained", help="imagenet, or a .safetensors file; without it the network starts at random")
args = parser.parse_args()


class Gauges(Dataset):
    """Normalised images (3, H, W) and unit coordinates (K, 2); every point of a gauge is labelled."""

    def __init__(self, examples: Examples) -> None:
        self.examples, self.epoch = examples, 0

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        pixels, unit_xy, _ = self.examples[self.epoch * len(self) + index]  # another augmentation every epoch
        return (torch.from_numpy(pixels).permute(2, 0, 1).float() - 127) / 128, torch.from_numpy(unit_xy)


torch.manual_seed(0)
train, val = gauges(args.images).split(0.2)
augmentation = Augmentation(rotate=15, scale=0.1, shift=0.05, brightness=0.2, brightness_p=0.5)
examples = Examples(train, (args.size, args.size), augmentation=augmentation)
train_set = Gauges(examples)
val_set = Gauges(Examples(val, (args.size, args.size)))

shape = examples.mean_shape()
network = EfficientNetLiteRegressor(len(shape), pretrained=args.pretrained, freeze=False, mean_shape=shape)
optimizer, criterion = torch.optim.Adam(network.parameters(), lr=1e-3), nn.MSELoss()
for epoch in range(args.epochs):
    train_set.epoch, total = epoch, 0.0
    for images, unit_xy in DataLoader(train_set, batch_size=16, shuffle=True, drop_last=True):
        optimizer.zero_grad()
        loss = criterion(network.train()(images), unit_xy)
        loss.backward()
        optimizer.step()
        total += loss.item()
    with torch.inference_mode():
        network.eval()
        errors = [network(images) - unit_xy for images, unit_xy in DataLoader(val_set, batch_size=16)]
    pixels = torch.cat(errors).norm(dim=-1).mean().item() * args.size
    print(f"epoch {epoch + 1}: loss {total / max(len(train_set) // 16, 1):.5f}, validation {pixels:.2f} px")
