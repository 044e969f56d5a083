"""Classify pictures with the network that lies beside this file.

    python predict.py cat.jpg dog.png

It needs numpy, onnxruntime and pillow; card.json says how the network takes pictures.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image


def prepared(picture: str, card: dict[str, Any]) -> Any:
    """A picture (1, C, H, W), scaled to cover the input, of which the centre is cut out."""
    channels, height, width = card["input_shape"]
    image = Image.open(picture).convert("RGB")
    image = image.convert("L") if channels == 1 else image
    scale = max(height / image.height, width / image.width) / card["crop_fraction"]
    size = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    middle = image.crop((left, top, left + width, top + height))
    codes = np.asarray(middle).reshape(height, width, channels).transpose(2, 0, 1)[None]
    if card["inputs"] == "bytes":
        return codes
    pixels = codes.astype(np.float32) / 255
    if card["inputs"] == "pixels":
        return pixels
    mean, std = (np.float32(card[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
    return (pixels - mean) / std


def main(folder: Path, pictures: list[str]) -> None:
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    session = onnxruntime.InferenceSession(folder / card["file"])
    for picture in pictures:
        logits = session.run(None, {"images": prepared(picture, card)})[0][0]
        shares = np.exp(logits - logits.max())
        best = int(shares.argmax())
        name = card["labels"][best] if card["labels"] else f"class {best}"
        print(f"{picture}: {name}, {shares[best] / shares.sum():.1%}")


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit("no picture was given; run: python predict.py PICTURE ...")
    main(Path(__file__).parent, sys.argv[1:])
