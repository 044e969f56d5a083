"""`make bench`: synthesis and fine-tuning steps, engine against plain reference, interleaved.

Writes bench/out/latest.json. Medians over repeats; the ratio is what
counts, the seconds depend on the machine.
"""

import copy
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import typer
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench import reference
from bench.machine import describe, synchronize
from hast.config.bit_width import BitWidth
from hast.config.finetune import FinetuneConfig
from hast.config.layers import PlanConfig
from hast.config.spec import ModelSpec
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import Engine, choose_engine, place, select_device
from hast.files.tables import write_json
from hast.loops.calibrate import observe_ranges
from hast.loops.finetune import finetune
from hast.loops.synthesize import synthesize
from hast.networks.batch_norm import batch_norms, freeze
from hast.networks.blocks import find_blocks
from hast.networks.plan import plan_quantization
from hast.networks.sources import build_network
from hast.networks.student import prepare_student
from hast.report.tables import markdown_rows

OUT = Path(os.environ.get("HAST_BENCH_OUT", Path(__file__).parent / "out"))
WARM_UP, ENDLESS = 2, 10**6


class Case(NamedTuple):
    network: str
    source: str
    size: int
    classes: int
    synthesis_batch: int
    finetune_batch: int
    repeats: int


CASES = (
    Case("ResNet-20", "pytorchcv:resnet20_cifar10", 32, 10, 256, 64, 7),
    Case("ResNet-18", "torchvision:resnet18", 224, 1000, 8, 4, 3),
    Case("MobileNetV2", "torchvision:mobilenet_v2", 128, 1000, 32, 16, 3),
)


class Line(NamedTuple):
    network: str
    task: str
    reference_seconds: float
    engine_seconds: float
    first_seconds: float  # the engine's first steps, compilation included
    ratio: float
    gflops: float  # of the engine, by the reference's counted operations
    share_of_matmul: float  # of the measured matmul rate in the engine's precision


def main(rounds: int = 0, network: str = "ResNet") -> None:
    """Measure the cases of networks whose names begin so, in so many rounds, by default as many as
    each needs."""
    device = select_device("auto")
    machine = describe(device)
    engine = choose_engine(device, work=float("inf"))
    print(machine, engine)
    lines = []
    for case in CASES:
        if not case.network.startswith(network):
            continue
        case = case._replace(repeats=rounds or case.repeats)
        for line in measure(case, device, engine, machine):
            lines.append(line)
            print(line, flush=True)
    report(machine, engine, lines)


def setting(case: Case, device: torch.device) -> tuple[ModelSpec, nn.Module, nn.Module, Tensor]:
    """Spec, plain teacher, the same teacher as the engine wants it, and images."""
    torch.manual_seed(0)
    spec = ModelSpec(
        input_shape=(3, case.size, case.size), num_classes=case.classes,
        mean=(0.5,) * 3, std=(0.25,) * 3,
    )  # fmt: skip
    plain = warmed(build_network(case.source, {}).network, spec).to(device)
    fast = place(freeze(copy.deepcopy(plain)), device)
    images = torch.randn(max(case.synthesis_batch, 4 * case.finetune_batch), *spec.input_shape)
    return spec, plain, fast, images.to(device)


def calibrated_student(teacher: nn.Module, spec: ModelSpec, images: Tensor) -> nn.Module:
    plan = plan_quantization(teacher, spec, BitWidth(4, 4), PlanConfig(placement="inputs"))
    student = prepare_student(teacher, spec, plan)
    for _ in observe_ranges(student, [images]):
        pass
    return student


def engine_steps(
    task: str, case: Case, spec: ModelSpec, teacher: nn.Module, images: Tensor, engine: Engine
) -> Iterator[Any]:
    """The library's own loop; one step for each `next`."""
    if task == "synthesis":
        size = case.synthesis_batch
        config = SynthesisConfig(samples=size, batch_size=size, steps=ENDLESS)
        return synthesize(teacher, None, spec, config, [0], engine)
    student = calibrated_student(teacher, spec, images[: case.finetune_batch])
    tuning = FinetuneConfig(steps=ENDLESS, batch_size=case.finetune_batch)
    blocks = find_blocks(teacher, spec)
    return finetune(student, teacher, images, torch.ones(len(images)), blocks, tuning, engine)


def measure(
    case: Case, device: torch.device, engine: Engine, machine: dict[str, Any]
) -> Iterator[Line]:
    """Steps of both tasks, plain and the engine's."""
    spec, plain, fast, images = setting(case, device)
    labels = torch.randint(case.classes, (case.synthesis_batch,), device=device)
    defaults = SynthesisConfig()
    student = calibrated_student(plain, spec, images[: case.finetune_batch])
    references = {
        "synthesis": reference.synthesis_steps(
            copy.deepcopy(plain).requires_grad_(True), images[: case.synthesis_batch], labels,
            gamma=defaults.gamma, hard_weight=defaults.hard_weight,
        ),
        "fine-tuning": reference.finetuning_steps(
            student, copy.deepcopy(plain).requires_grad_(True), images, find_blocks(fast, spec),
            case.finetune_batch,
        ),
    }  # fmt: skip
    limit = machine["matmul_bf16_gflops" if engine.bf16 else "matmul_fp32_gflops"]
    for task, slow in references.items():
        quick = engine_steps(task, case, spec, fast, images, engine)
        with FlopCounterMode(display=False) as counter:
            next(slow)
        first = sum(seconds(quick, device) for _ in range(WARM_UP))
        seconds(slow, device)
        # Single steps in turn, so that whatever else the machine does meets both; the faster side
        # gets more of them, each round, for as steady a median.
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(case.repeats):
            times[0].append(seconds(slow, device))
            times[1].append(statistics.median(seconds(quick, device) for _ in range(3)))
        before, now = map(statistics.median, times)
        rate = counter.get_total_flops() / now / 1e9
        yield Line(case.network, task, before, now, first, before / now, rate, rate / limit)


def seconds(steps: Iterator[Any], device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    next(steps)
    synchronize(device)
    return time.perf_counter() - start


def warmed(network: nn.Module, spec: ModelSpec) -> nn.Module:
    """Random weights with BatchNorm statistics that fit them."""
    for norm in batch_norms(network):
        norm.momentum = None
    noise: Tensor = torch.randn(32, *spec.input_shape)
    with torch.no_grad():
        network.train()(noise)
    return freeze(network)


def report(machine: dict[str, Any], engine: Engine, lines: list[Line]) -> None:
    cells = [["network", "task", "plain s", "engine s", "ratio", "GFLOP/s", "of matmul"]]
    for line in lines:
        cells.append([
            line.network, line.task, f"{line.reference_seconds:.3f}", f"{line.engine_seconds:.3f}",
            f"{line.ratio:.1f}x", f"{line.gflops:.0f}", f"{line.share_of_matmul:.0%}",
        ])  # fmt: skip
    print(markdown_rows(cells, left=2))
    ratios = {(line.network, line.task): line.ratio for line in lines}
    values = {
        "synthesis": {"ratio": ratios.get(("ResNet-20", "synthesis"))},
        "finetune": {"ratio": ratios.get(("ResNet-20", "fine-tuning"))},
        "machine": machine,
        "engine": engine._asdict(),
        "lines": [line._asdict() for line in lines],
    }
    write_json(OUT / "latest.json", values)
    print(f"written: {OUT / 'latest.json'}")


if __name__ == "__main__":
    typer.run(main)
