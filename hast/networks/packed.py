"""A student as a few long tensors: codes at their true width, then scales, then all the rest."""

import copy
import hashlib
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hast.errors import InputError
from hast.math.packing import pack, packed_bytes, unpack
from hast.math.quantization import QParams, per_channel, quant_max_of
from hast.networks.codes import (
    Codes,
    activation_quantizers,
    activation_sites,
    set_codes,
    weight_codes,
)
from hast.networks.student import remove_quantizers


class Layout(NamedTuple):
    """What stands where in the tensors of the file."""

    weights: dict[str, tuple[torch.Size, int]]  # shape and bits of each quantized weight
    sites: dict[str, int]  # activation quantizers of each module
    rest: dict[str, torch.Size]  # all other float32 tensors of the network
    others: dict[str, tuple[torch.Size, torch.dtype]]  # and those of other types
    axes: dict[str, int]  # see `Codes`; follows from the architecture

    @classmethod
    def of(cls, student: nn.Module) -> "Layout":
        codes = weight_codes(student)
        state = _unquantized(student)
        return cls(
            weights={name: (w.codes.shape, w.bits) for name, w in codes.items()},
            sites={name: len(sites) for name, sites in activation_sites(student).items()},
            rest={n: t.shape for n, t in state.items() if t.dtype == torch.float32},
            others={n: (t.shape, t.dtype) for n, t in state.items() if t.dtype != torch.float32},
            axes={name: w.axis for name, w in codes.items()},
        )

    def key(self) -> str:
        parts = (self.weights, self.sites, self.rest, self.others)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def read(self, student: nn.Module) -> dict[str, Tensor]:
        """The tensors of the file."""
        codes, state = weight_codes(student), _unquantized(student)
        sites = activation_quantizers(student)
        packed = [pack(w.codes.contiguous().byte(), w.bits) for w in codes.values()]
        zero_points = [pack(w.qparams.zero_point.byte(), w.bits) for w in codes.values()]
        return {
            "weight_packed": _join(packed, torch.uint8),
            "weight_scale": _join([w.qparams.scale for w in codes.values()], torch.float32),
            "weight_zero_point": _join(zero_points, torch.uint8),
            "activation_scale": _join([s.scale for s in sites], torch.float32),
            "activation_zero_point": _join([s.zero_point for s in sites], torch.uint8),
            "unquantized": _join([state[name] for name in self.rest], torch.float32),
            **{f"unquantized.{name}": state[name].contiguous() for name in self.others},
        }

    def bytes(self) -> int:
        """Of all tensors of the file, without making them."""
        total = 5 * sum(self.sites.values())  # a scale in float32 and a zero point of one byte
        for name, (shape, bits) in self.weights.items():
            channels = shape[self.axes[name]]
            total += packed_bytes(shape.numel(), bits) + packed_bytes(channels, bits) + 4 * channels
        total += sum(4 * shape.numel() for shape in self.rest.values())
        return total + sum(s.numel() * dtype.itemsize for s, dtype in self.others.values())

    def write(self, student: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Set codes, scales and all other tensors of `student`."""
        wanted, found = (
            {name: tensor.numel() for name, tensor in parts.items()}
            for parts in (self.read(student), tensors)
        )
        if found != wanted:
            raise InputError(f"the checkpoint's tensors must have sizes {wanted}, got {found}")
        _check_scales(tensors)
        self._write_weights(student, tensors)
        self._write_sites(student, tensors)
        take = _from_the_front(tensors["unquantized"])
        state = {name: take(shape.numel()).view(shape) for name, shape in self.rest.items()}
        state |= {name: tensors[f"unquantized.{name}"] for name in self.others}
        own, learned = student.state_dict(), dict(student.named_parameters())
        for name, value in state.items():
            _check_numbers(name, value, finite=name in learned)
            own[name].copy_(value)

    def _write_weights(self, student: nn.Module, tensors: dict[str, Tensor]) -> None:
        scales = _from_the_front(tensors["weight_scale"])
        packed = _from_the_front(tensors["weight_packed"])
        packed_zero_points = _from_the_front(tensors["weight_zero_point"])
        for name, (shape, bits) in self.weights.items():
            axis, count = self.axes[name], shape.numel()
            integers = unpack(packed(packed_bytes(count, bits)), bits, count).float().view(shape)
            channels = shape[axis]
            zero_point = unpack(packed_zero_points(packed_bytes(channels, bits)), bits, channels)
            qparams = QParams(
                per_channel(scales(channels), integers, axis),
                per_channel(zero_point.float(), integers, axis),
                quant_max_of(bits),
            )
            set_codes(student.get_submodule(name), Codes(integers, qparams, bits, axis))

    def _write_sites(self, student: nn.Module, tensors: dict[str, Tensor]) -> None:
        quantizers = activation_quantizers(student)
        scales, zero_points = tensors["activation_scale"], tensors["activation_zero_point"].float()
        for quantizer, scale, zero_point in zip(quantizers, scales, zero_points, strict=True):
            quantizer.fix(QParams(scale, zero_point, quant_max_of(quantizer.bits)))


def _check_scales(tensors: dict[str, Tensor]) -> None:
    for name in ("weight_scale", "activation_scale"):
        if not (tensors[name].isfinite() & (tensors[name] > 0)).all():
            raise InputError(f"the checkpoint's {name}: scales must be positive numbers")


def _check_numbers(name: str, values: Tensor, *, finite: bool) -> None:
    """A buffer may be infinite, as the masks of attention are; no tensor may be NaN."""
    if not values.is_floating_point():
        return
    wide = values.double()  # not every narrow type knows `isfinite`
    if not (wide.isfinite() if finite else ~wide.isnan()).all():
        raise InputError(f"the checkpoint's {name} must hold {'finite ' * finite}numbers")


def _unquantized(student: nn.Module) -> dict[str, Tensor]:
    """All tensors of the network but the quantized weights; BatchNorm's step counter is none of
    its function. What a module with two names holds comes once, as its codes do."""
    aliases = {name for name, _ in student.named_modules(remove_duplicate=False)}
    aliases -= {name for name, _ in student.named_modules()}
    quantized = {f"{name}.weight".lstrip(".") for name in weight_codes(student)}
    state = remove_quantizers(copy.deepcopy(student)).state_dict()
    return {
        name: tensor.detach().cpu()
        for name, tensor in state.items()
        if name not in quantized
        and name.rpartition(".")[0] not in aliases
        and not name.endswith("num_batches_tracked")
    }


def _from_the_front(values: Tensor) -> Callable[[int], Tensor]:
    """Takes the next so many of values (N,) at each call."""
    end = 0

    def take(count: int) -> Tensor:
        nonlocal end
        end += count
        return values[end - count : end]

    return take


def _join(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    flat = [part.detach().cpu().reshape(-1).to(dtype) for part in parts]
    return torch.cat(flat) if flat else torch.empty(0, dtype=dtype)
