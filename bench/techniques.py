"""What each technique of the engine gives: the same steps with one of them left out, interleaved.

    python -m bench.techniques [--only "without compilation;in the other precision"]

ResNet-20 at 32 x 32. Prints a table and writes bench/out/techniques.json.
"""

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch
from warnings import catch_warnings

import torch
import typer
from torch import Tensor, nn

from bench.machine import describe
from bench.run import CASES, OUT, engine_steps, seconds, setting
from hast.engine.engine import Engine, Precision, choose_engine, place_images
from hast.errors import HastWarning, first_line
from hast.files.tables import write_json
from hast.math.statistics import ChannelStatistics
from hast.report.tables import markdown_rows

ROUNDS, WARM_UP = 15, 3


def whole(device: torch.device) -> Engine:
    return choose_engine(device, work=float("inf"))


def plain(device: torch.device) -> Engine:
    return whole(device)._replace(compile=False)


def other_precision(device: torch.device) -> Engine:
    """What who asks for it gets: on some processors not compiled."""
    wanted: Precision = "fp32" if whole(device).bf16 else "bf16"
    return choose_engine(device, work=float("inf"), precision=wanted)


class Variant(NamedTuple):
    """The engine with something left out."""

    name: str
    engine: Callable[[torch.device], Engine] = whole
    patches: dict[str, Any] = {}  # of names in the library, while a step runs
    change: Callable[[nn.Module], nn.Module] = lambda teacher: teacher
    around: Callable[[], AbstractContextManager[Any]] = nullcontext

    def open(self) -> AbstractContextManager[Any]:
        stack = ExitStack()
        stack.enter_context(self.around())
        for name, value in self.patches.items():
            stack.enter_context(patch(name, value))
        return stack


def as_they_are(images: Tensor, device: torch.device) -> Tensor:
    return place_images(images, device).contiguous()


def welford(x: Tensor, **_: Tensor) -> ChannelStatistics:
    var, mean = torch.var_mean(x.float(), [0, 2, 3], correction=0)
    return ChannelStatistics(mean, var)


ALL = Variant("everything on")
COMMON = (
    Variant("without compilation", plain),
    Variant("in the other precision", other_precision),
    Variant("with gradients for the teacher", change=lambda t: t.requires_grad_(True)),
    Variant(
        "without folded BatchNorm",
        patches={
            f"hast.loops.{loop}.folded_statistics": lambda _: nullcontext()
            for loop in ("synthesize", "finetune")
        },
    ),
)
WITHOUT = {
    "synthesis": (
        *COMMON,
        Variant(
            "without channels-last",
            patches={"hast.loops.synthesize.place_images": as_they_are},
            change=lambda t: t.to(memory_format=torch.contiguous_format),
        ),
        Variant(
            "with Welford's moments",
            patches={"hast.networks.batch_norm.channel_statistics": welford},
        ),
    ),
    "fine-tuning": (
        *COMMON,
        Variant("without recomputation", patches={"hast.engine.engine._RECOMPUTE": {}}),
    ),
}


@contextmanager
def tf32() -> Iterator[None]:
    owners: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [owner.allow_tf32 for owner in owners]
    for owner in owners:
        owner.allow_tf32 = True
    try:
        yield
    finally:  # or what is measured after a step that failed would have it, too
        for owner, value in zip(owners, before, strict=True):
            owner.allow_tf32 = value


# What the engine does not do, for whoever wants to know why.
ON_CUDA = (
    Variant("in fp32 with TF32", other_precision, around=tf32),
    Variant(
        "with CUDA graphs",
        patches={"torch.compile": partial(torch.compile, mode="reduce-overhead")},
    ),
)


def main(only: str = "", rounds: int = ROUNDS) -> None:
    device = torch.device("cpu") if not torch.cuda.is_available() else torch.device("cuda")
    further = ON_CUDA if device.type == "cuda" else ()
    without = {task: (*variants, *further) for task, variants in WITHOUT.items()}
    known = {variant.name for variants in without.values() for variant in variants}
    wanted = set(only.split(";")) if only else known
    if unknown := wanted - known:
        raise SystemExit(f"--only: no variant {unknown}; there are {sorted(known)}")
    machine = describe(device)
    print(machine, whole(device))
    case = CASES[0]
    results: list[dict[str, Any]] = []
    for task, variants in without.items():
        steps = []
        for variant in (ALL, *(v for v in variants if v.name in wanted)):
            spec, _, fast, images = setting(case, device)
            teacher = variant.change(fast)
            loop = engine_steps(task, case, spec, teacher, images, variant.engine(device))
            steps.append((variant, loop))
        results += race(task, steps, device, rounds)
    cells = [[r["task"], r["variant"], f"{r['ms']:.0f}", f"{r['slower']:.2f}"] for r in results]
    print(markdown_rows([["step", "variant", "ms", "times as slow"], *cells], left=2))
    write_json(OUT / "techniques.json", {"machine": machine, "results": results})


def race(
    task: str, steps: list[tuple[Variant, Iterator[Any]]], device: torch.device, rounds: int
) -> Iterator[dict[str, Any]]:
    times: dict[str, list[float]] = {variant.name: [] for variant, _ in steps}
    for number in range(WARM_UP + rounds):
        for variant, iterator in steps:
            if variant.name not in times:
                continue
            try:
                # A warning says that the rest runs without compilation, which is another variant.
                with variant.open(), catch_warnings(action="error", category=HastWarning):
                    took = seconds(iterator, device)
            except Exception as error:  # of a compiler; the others go on
                print(f"{task} {variant.name}: {first_line(error)}")
                del times[variant.name]
                continue
            if number >= WARM_UP:
                times[variant.name].append(took)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        slower = median / medians[ALL.name]
        yield {"task": task, "variant": name, "ms": 1e3 * median, "slower": slower}


if __name__ == "__main__":
    typer.run(main)
