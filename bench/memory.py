"""How much memory the `synthesize` stage takes for a small and for a large bank.

    python -m bench.memory

Runs the stage on an untrained ResNet-20 with one step a batch and watches the memory that is the
process's own (RssAnon; pages of files can be dropped at any time). Linux only.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import typer
from ruamel.yaml import YAML

from hast.loops.train_generator import GeneratorConfig, build_generator
from hast.networks.batch_norm import freeze
from hast.networks.fingerprint import fingerprint
from hast.networks.sources import build_network
from hast.networks.spec import ModelSpec
from hast.storage.generators import GeneratorCard
from hast.storage.teachers import TeacherCard
from hast.storage.weights import save_with_card

SOURCE = "pytorchcv:resnet20_cifar10"
SPEC = ModelSpec(input_shape=(3, 32, 32), num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
ROOT = Path(__file__).parents[1]


def main(sizes: list[int] = typer.Argument(default=None)) -> None:  # noqa: B008
    for samples in sizes or [10_000, 100_000]:
        with tempfile.TemporaryDirectory() as folder:
            peak, took = measure(Path(folder), samples)
        stored = samples * 4 * torch.Size(SPEC.input_shape).numel() / 1e6
        size = f"{samples} images ({stored:.0f} MB as float32)"
        print(f"{size}: {peak:.0f} MB of memory, {took:.0f} s")


def measure(folder: Path, samples: int) -> tuple[float, float]:
    """Peak of the stage's own memory in MB, and seconds."""
    prepare(folder, samples)
    command = [sys.executable, "-m", "stages.synthesize", "--compile", "off"]
    for option in ("teacher", "generator", "inputs"):
        command += [f"--{option}", option]
    command += ["--out", "bank", "--metrics", "metrics.json", "--profile", "profile.tsv"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start, peak = time.monotonic(), 0
    stage = subprocess.Popen(command, cwd=folder, env=environment)
    while stage.poll() is None:
        peak = max(peak, own_memory(stage.pid))
        time.sleep(0.05)
    assert stage.returncode == 0
    return peak / 1e3, time.monotonic() - start


def own_memory(process: int) -> int:
    """Kilobytes of anonymous memory."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def prepare(folder: Path, samples: int) -> None:
    """A teacher, a generator and parameters in `folder`."""
    torch.manual_seed(0)
    teacher = freeze(build_network(SOURCE, {}).network)
    name = fingerprint(teacher.state_dict())
    card = TeacherCard(source=SOURCE, source_args={}, spec=SPEC, fingerprint=name)
    save_with_card(folder / "teacher", teacher, card)
    config = GeneratorConfig(width=8, latent_dim=4)
    generator = build_generator(SPEC, config)
    save_with_card(
        folder / "generator",
        generator,
        GeneratorCard(teacher=name, latent_dim=config.latent_dim, width=config.width),
    )
    with (folder / "params.yaml").open("w") as file:
        YAML().dump({"synthesize": {"samples": samples, "steps": 1}, "bank": {}}, file)


if __name__ == "__main__":
    typer.run(main)
