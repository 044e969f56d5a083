"""A network of a user's own, its folder of images, and the command line in this process."""

from pathlib import Path

from PIL import Image
from typer.testing import CliRunner, Result

from hast.cli.main import app

FACTORY = """
import torch
from torch import nn

def build(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes),
    )
"""
SPEC = ["--input-shape", "3x12x12", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25"]


def make_images(folder: Path, *, classes: int) -> None:
    for name in (f"kind_{i}" for i in range(classes)):
        (folder / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (12, 12)).save(folder / name / f"{i}.png")


def run(*arguments: str, typed: str | None = None, code: int = 0, **environment: str) -> Result:
    """Run `hast`; what it raises is raised here, and it ends with `code`."""
    done = CliRunner().invoke(
        app, [*arguments], input=typed, env=environment, catch_exceptions=False
    )
    assert done.exit_code == code, done.output
    return done
