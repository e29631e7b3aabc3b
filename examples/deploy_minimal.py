"""Points of one picture from a model file: `python deploy_minimal.py model.onnx photo.jpg`.

`pip install 'keylite[onnx]'` is enough, or `keylite[litert]` for a .tflite file; no training framework is needed.
"""

import sys

from keylite import Predictor

model, picture = sys.argv[1:]
points = Predictor(model)(picture)  # or (picture, boxes=[[x0, y0, x1, y1], ...]) in px
for xy in points.xy:
    for name, (x, y) in zip(points.skeleton.names, xy, strict=True):
        print(f"{name}: {x:.1f} {y:.1f}")
