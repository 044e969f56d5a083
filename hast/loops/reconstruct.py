"""Reconstruction: bring one block of the student after the other to answer as the teacher's does.

For a block with the quantized prefix's answer x_q as its input and the teacher's x_f, y_f:

    min over rounding and scales of  mean[ w (block_q(x) - y_f)^2 ] / mean[ w (y_f - mean y_f)^2 ]

A few hundred images decide thousands of weights without overfitting, because a block has many
outputs for each image, and because all that is decided of a weight is one bit: whether it is
rounded up or down (math/rounding.py). End-to-end distillation has one answer an image, moves the
weights themselves, and at large rates destroys what it started from.

Four things make it work. The input is the *quantized* prefix's, so a block makes up for what those
before it did. While it learns, half of all activations, drawn anew at each step, stay unquantized
(QDrop): a rounding that fits these very errors of activations does not fit those of other images.
Biases can be learned as well, for errors of rounding have a mean, which the next layer would take
for a signal; they are integers of 32 bits and cost nothing. And the error of a lone layer is
weighed by the gain w of the BatchNorm that reads it.

The loss is a share of what the block's answer varies by, so that one rate serves any network.

Large images are made smaller first. Synthetic ones have fine noise that no photograph has: of the
variance within an image 30 % can lie above a quarter of the sampling frequency, in photographs 4 %.
Roundings are then fitted to noise, and most of it goes with the size. It is also less work.

Source: Nagel et al., 2020, AdaRound (arXiv:2004.10568); Li et al., 2021, BRECQ (arXiv:2102.05426);
Wei et al., 2022, QDrop (arXiv:2203.05740); Jeon et al., 2023, GENIE (arXiv:2212.04780).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from psutil import virtual_memory
from torch import Tensor, nn

from hast.config.reconstruct import ReconstructionConfig
from hast.config.spec import ModelSpec
from hast.engine.engine import PLAIN, Engine, Images, place_images
from hast.engine.runtime import device_of, loop, seeded
from hast.loops.checks import check_finite
from hast.math.rounding import rounding_sharpness
from hast.networks.batch_norm import scale_and_shift
from hast.networks.call_sites import restart_call_counts
from hast.networks.folding import foldable
from hast.networks.hooks import removed_at_exit
from hast.networks.quantizers import ActivationQuantizer, RoundingWeightQuantizer
from hast.networks.units import Call, Unit, call_of

_SHARPNESS = 20.0  # at the end: less than a tenth of a code around the middle is undecided
_TOGETHER = 32  # images in a pass that looks at a block's inputs
_MEMORY = 0.2  # of what is free; three tensors as large are held, and as much stays for the rest
_CAUSE = "scale_rate or rounding_rate too high"


class ReconstructionStep(NamedTuple):
    unit: int
    is_last: bool  # of its unit
    loss: Tensor  # share of the variance of the teacher's answer


@loop
def reconstruct(
    student: nn.Module,
    teacher: nn.Module,
    spec: ModelSpec,
    units: Sequence[Unit],
    images: Images,
    config: ReconstructionConfig,
    engine: Engine = PLAIN,
    *,
    first: int = 0,
) -> Iterator[ReconstructionStep]:
    """Reconstruct units of `student` in place, each from what those before it have become.

    Args:
        student: calibrated, eval mode, with learned scales.
        teacher: frozen, eval mode, same device.
        spec: of the teacher.
        units: see `find_units`.
        images: (N, C, H, W), normalized pixels, all of which are used.
        config: see `ReconstructionConfig`.
        engine: its precision; blocks are too many to compile.
        first: unit to begin with, those before it being done.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.
    """
    device = device_of(teacher)
    norms = foldable(teacher, spec)
    wrapped = Engine(bf16=engine.bf16).wrap(_relative_error, device)
    parts = [place_images(_resized(x, config), device) for x in images.split(_TOGETHER)]
    for index, unit in list(enumerate(units))[first:]:
        name, random = f"reconstruct {unit.name}", seeded(config.seed, "reconstruct", index)
        behind, exact = _samples(student, teacher, unit.name, parts)
        norm = teacher.get_submodule(norms[unit.name]) if unit.name in norms else None
        weights = _weights(exact.output, norm)
        module = student.get_submodule(unit.name)
        with (
            _learnable(student, unit, config) as (roundings, optimizer, schedule),
            _dropping(module, config.drop_probability, random),
        ):
            for step in range(config.steps):
                for rounding in roundings:
                    rounding.sharpness = rounding_sharpness(step / config.steps, last=_SHARPNESS)
                drawn = torch.randint(len(behind), (config.batch_size,), generator=random)
                x = exact.input[drawn]
                x = torch.where(_coin(x, config.drop_probability, random), x, behind[drawn])
                optimizer.zero_grad()
                restart_call_counts(module)
                loss = wrapped(module, x, exact, exact.output[drawn], weights)
                loss.backward()
                check_finite(loss, loop=name, step=step, steps=config.steps, cause=_CAUSE)
                optimizer.step()
                schedule.step()
                if step < config.steps - 1:
                    yield ReconstructionStep(index, False, loss.detach())
        yield ReconstructionStep(index, True, loss.detach())  # now that all is decided


def _weights(wanted: Tensor, norm: nn.Module | None) -> Tensor:
    """How much an error of each channel counts, (C, 1, ...): the gain of the BatchNorm that reads
    it, over what the answer varies by."""
    varies = wanted.var((0, *range(2, wanted.ndim)), correction=0)
    gain = scale_and_shift(norm)[0].square() if norm else torch.ones_like(varies)
    share = gain / (gain * varies).mean().clamp(min=torch.finfo(torch.float32).tiny)
    return share.view(-1, *[1] * (wanted.ndim - 2))


def _relative_error(
    module: nn.Module, x: Tensor, call: Call, wanted: Tensor, weights: Tensor
) -> Tensor:
    answer: Tensor = module(x, *call.args, **call.kwargs).float()
    return ((answer - wanted).square() * weights).mean()


def _samples(
    student: nn.Module, teacher: nn.Module, unit: str, parts: Sequence[Tensor]
) -> tuple[Tensor, Call]:
    """What a unit is given behind the quantized prefix, and how the teacher calls it; one row an
    image."""
    count = sum(map(len, parts))
    behind, given, wanted = (_Rows(count) for _ in range(3))
    for images in parts:
        behind.append(call_of(student, unit, images).input)
        call = call_of(teacher, unit, images)
        given.append(call.input)
        wanted.append(call.output)
    return behind.all, call._replace(input=given.all, output=wanted.all)


class _Rows:
    """One row an image, part by part: in memory, or, where much of it would be taken, in a file
    without a name, whose pages the system reads when they are drawn."""

    def __init__(self, count: int) -> None:
        self.count, self.filled = count, 0
        self.all: Tensor

    def append(self, part: Tensor) -> None:
        if not self.filled:
            self.all = self._room(part)
        self.all[self.filled : self.filled + len(part)] = part
        self.filled += len(part)

    def _room(self, part: Tensor) -> Tensor:
        """Laid out as the part is: a convolution sums up in another order in another layout."""
        shape = (self.count, *part.shape[1:])
        rows = part[:1].expand(shape)
        if part.device.type != "cpu" or rows.nbytes < _MEMORY * virtual_memory().available:
            return torch.empty_like(rows)
        with NamedTemporaryFile() as file:
            flat = torch.from_file(file.name, shared=True, size=rows.numel(), dtype=part.dtype)
        return flat.as_strided(shape, torch.empty_like(rows, device="meta").stride())


def _resized(images: Tensor, config: ReconstructionConfig) -> Tensor:
    if config.resize == 1:
        return images
    size = [round(config.resize * side) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", antialias=True)


@contextmanager
def _learnable(
    student: nn.Module, unit: Unit, config: ReconstructionConfig
) -> Iterator[tuple[list[RoundingWeightQuantizer], torch.optim.Optimizer, Any]]:
    """The rounding of the unit's weights can be learned inside, and is decided at the end."""
    module = student.get_submodule(unit.name)
    layers: list[Any] = [student.get_submodule(name) for name in unit.layers]
    lists = [layer.parametrizations.weight for layer in layers]
    roundings = [RoundingWeightQuantizer(held[0], held.original) for held in lists]
    scales = [p for name, p in module.named_parameters() if name.endswith("log_scale")]
    trained = [p for p in module.parameters() if p.requires_grad]
    others = [{"params": scales, "lr": config.scale_rate}, *_biases(module, config.bias_rate)]
    learned = {id(p) for group in others for p in group["params"]}
    for parameter in trained:  # the rest stays: its gradients would cost as much as those wanted
        parameter.requires_grad_(id(parameter) in learned)
    for held, rounding in zip(lists, roundings, strict=True):
        held[0] = rounding
    logits = {"params": [rounding.logit for rounding in roundings], "lr": config.rounding_rate}
    optimizer = torch.optim.Adam([logits, *others])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    yield roundings, optimizer, schedule
    for parameter in trained:
        parameter.requires_grad_(True)
    for held, rounding in zip(lists, roundings, strict=True):
        held.original.data.copy_(rounding.rounded(held.original))
        held[0] = rounding.quantizer


def _biases(module: nn.Module, rate: float) -> list[dict[str, Any]]:
    """Biases in the module, each with a rate in the unit of its layer: the norm of a channel's
    weights, which is what the layer makes of inputs of variance 1."""
    modules: list[Any] = [*module.modules()]
    layers = [m for m in modules if isinstance(getattr(m, "bias", None), nn.Parameter)]
    sizes = [(m.weight.detach().square().sum() / m.bias.numel()).sqrt().item() for m in layers]
    return [{"params": [m.bias], "lr": rate * size} for m, size in zip(layers, sizes, strict=True)]


@contextmanager
def _dropping(module: nn.Module, probability: float, random: torch.Generator) -> Iterator[None]:
    """Let activations pass unquantized now and then."""

    def drop(_module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.where(_coin(output, probability, random), args[0], output)

    quantizers = [m for m in module.modules() if isinstance(m, ActivationQuantizer)]
    with removed_at_exit(m.register_forward_hook(drop) for m in quantizers):
        yield


def _coin(like: Tensor, probability: float, random: torch.Generator) -> Tensor:
    """True with this probability, for each channel of each image: (B, C, 1, ...).

    A draw for each value, as published, costs as much as the block itself; what an output sums up
    is a mixture either way.
    """
    drawn = torch.rand(like.shape[:2], generator=random) < probability
    return drawn.view(*like.shape[:2], *[1] * (like.ndim - 2)).to(like.device)
