"""A student as a few long tensors: codes at their true width, then scales, then all the rest."""

import copy
import hashlib
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

_FLOAT_BYTES = 4


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

    def sizes(self) -> dict[str, int]:
        """Elements of each tensor of the file."""
        channels = self._channels()
        sites = sum(self.sites.values())
        return {
            "weight_packed": sum(packed_bytes(s.numel(), b) for s, b in self.weights.values()),
            "weight_scale": sum(channels.values()),
            "weight_zero_point": sum(
                packed_bytes(channels[name], bits) for name, (_, bits) in self.weights.items()
            ),
            "activation_scale": sites,
            "activation_zero_point": sites,
            "unquantized": sum(shape.numel() for shape in self.rest.values()),
            **{f"unquantized.{name}": shape.numel() for name, (shape, _) in self.others.items()},
        }

    def bytes(self) -> int:
        """Of all tensors of the file."""
        widths = {"weight_packed": 1, "weight_zero_point": 1, "activation_zero_point": 1}
        widths |= {
            f"unquantized.{name}": dtype.itemsize for name, (_, dtype) in self.others.items()
        }
        return sum(count * widths.get(name, _FLOAT_BYTES) for name, count in self.sizes().items())

    def write(self, student: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Set codes, scales and all other tensors of `student`."""
        found = {name: tensor.numel() for name, tensor in tensors.items()}
        if found != self.sizes():
            raise InputError(
                f"the checkpoint's tensors must have sizes {self.sizes()}, got {found}"
            )
        _check_scales(tensors)
        self._write_weights(student, tensors)
        self._write_sites(student, tensors)
        rest = tensors["unquantized"].split([shape.numel() for shape in self.rest.values()])
        state = {
            name: values.view(shape)
            for (name, shape), values in zip(self.rest.items(), rest, strict=True)
        }
        state |= {name: tensors[f"unquantized.{name}"] for name in self.others}
        own, learned = student.state_dict(), dict(student.named_parameters())
        for name, value in state.items():
            _check_numbers(name, value, finite=name in learned)
            own[name].copy_(value)

    def _channels(self) -> dict[str, int]:
        """Scales of each quantized weight."""
        return {name: shape[self.axes[name]] for name, (shape, _) in self.weights.items()}

    def _write_weights(self, student: nn.Module, tensors: dict[str, Tensor]) -> None:
        channels = list(self._channels().values())
        shapes = [shape for shape, _ in self.weights.values()]
        widths = [bits for _, bits in self.weights.values()]
        packed = tensors["weight_packed"].split(
            [packed_bytes(s.numel(), b) for s, b in zip(shapes, widths, strict=True)]
        )
        zero_points = tensors["weight_zero_point"].split(
            [packed_bytes(count, b) for count, b in zip(channels, widths, strict=True)]
        )
        scales = tensors["weight_scale"].split(channels)
        parts = zip(self.weights, shapes, widths, packed, scales, zero_points, strict=True)
        for name, shape, bits, stream, scale, zero_point in parts:
            integers = unpack(stream, bits, shape.numel()).float().view(shape)
            axis = self.axes[name]
            qparams = QParams(
                per_channel(scale, integers, axis),
                per_channel(unpack(zero_point, bits, len(scale)).float(), integers, axis),
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


def _join(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    flat = [part.detach().cpu().reshape(-1).to(dtype) for part in parts]
    return torch.cat(flat) if flat else torch.empty(0, dtype=dtype)
