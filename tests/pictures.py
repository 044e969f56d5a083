"""A folder of pictures, and small networks without BatchNorm that answer differently to them."""

from pathlib import Path

import torch
from conftest import spec_of
from PIL import Image
from torch import nn
from torchvision.models import ConvNeXt, VisionTransformer
from torchvision.models.convnext import CNBlockConfig

from hast.networks.batch_norm import freeze

SPEC = spec_of((3, 32, 32), std=(0.25,) * 3)


def convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=10)


def vit() -> nn.Module:
    network = VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64,
        num_classes=10,
    )  # fmt: skip
    nn.init.normal_(network.heads.head.weight)  # torchvision's is zero
    return network


BUILDERS = {"convnext": convnext, "vit": vit}


def built(name: str) -> nn.Module:
    """A network with random weights, frozen."""
    torch.manual_seed(0)
    return freeze(BUILDERS[name]())


def make_pictures(folder: Path, count: int, *, side: int = 40) -> Path:
    """Smooth pictures of two kinds of file in two folders, no two alike."""
    random = torch.Generator().manual_seed(0)
    for i in range(count):
        path = folder / ("a" if i % 2 else "b/deep") / f"{i:03}.{'png' if i % 3 else 'JPG'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(256, (4, 5, 3), dtype=torch.uint8, generator=random)
        image = Image.fromarray(pixels.numpy()).resize(
            (side + i % 7, side), Image.Resampling.BICUBIC
        )
        image.save(path)
    (folder / "notes.txt").write_text("no picture")
    return folder
