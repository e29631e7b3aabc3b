"""keylite's network, loss and examples in your own call of `fit`, on rendered gauges. `--help` lists the arguments."""

import argparse
from typing import Any

import keras
import numpy as np

from keylite import gauges
from keylite.data.augmentation import Augmentation
from keylite.data.examples import Examples
from keylite.tensorflow import EfficientNetLiteRegressor, loss

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--images", type=int, default=512, help="gauges to render")
parser.add_argument("--epochs", type=int, default=10, help="half of them with the backbone frozen")
parser.add_argument("--size", type=int, default=128, help="px of the network's input")
parser.add_argument("--pretrained", help="imagenet, or a .safetensors file; without it the network starts at random")
args = parser.parse_args()
size = (args.size, args.size)


class Gauges(keras.utils.PyDataset):
    """Batches of normalised images (B, H, W, 3), unit coordinates (B, K, 2) and weights (B, K)."""

    def __init__(self, examples: Examples, batch: int = 16) -> None:
        super().__init__()
        self.examples, self.batch, self.epoch = examples, min(batch, len(examples)), 0

    def __len__(self) -> int:
        return len(self.examples) // self.batch

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        items = self.examples.order(self.epoch)[index * self.batch : (index + 1) * self.batch]
        pixels, unit_xy, weight = self.examples.batch(items)
        return (pixels.astype(np.float32) - 127) / 128, unit_xy, weight

    def on_epoch_end(self) -> None:
        self.epoch += 1  # another order and augmentation


def px(truth, predicted):
    """The mean distance of predictions to labels, px of the network's input; every point of a gauge is labelled."""
    return args.size * keras.ops.mean(keras.ops.norm(predicted - truth, axis=-1))


keras.utils.set_random_seed(0)
train, val = gauges(args.images).split(0.2)
augmentation = Augmentation(rotate=15, scale=0.1, shift=0.05, brightness=0.2, brightness_p=0.5)
train_set = Gauges(Examples(train, size, augmentation=augmentation))
val_set = Gauges(Examples(val, size), batch=len(val))
shape = train_set.examples.mean_shape()
net = EfficientNetLiteRegressor(len(shape), pretrained=args.pretrained, freeze=True, mean_shape=shape)
net.summary()
half = args.epochs // 2
choices = {"loss": loss("huber", size), "metrics": [px]}
net.compile(keras.optimizers.Adam(1e-3), **choices)
fitting: dict[str, Any] = {"validation_data": val_set, "shuffle": False, "verbose": 2}  # prints a line per epoch
net.fit(train_set, epochs=half, **fitting)
net.freeze(False)
net.compile(keras.optimizers.Adam(3e-4), **choices)  # Keras decides here which weights are trained
net.fit(train_set, initial_epoch=half, epochs=args.epochs, **fitting)
