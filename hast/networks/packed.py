"""A student as a few long tensors: codes at their true width, then scales, then all the rest."""

import copy
import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hast.errors import InputError
from hast.math.packing import pack, packed_bytes, unpack
from hast.math.quantization import QParams, quant_max_of
from hast.networks.codes import (
    Codes,
    activation_quantizers,
    activation_sites,
    set_codes,
    weight_codes,
)
from hast.networks.student import remove_quantizers


class Layout:
    """What of a student stands where in the tensors of the file."""

    def __init__(self, student: nn.Module) -> None:
        self._student = student
        self._weights, self._sites = weight_codes(student), activation_quantizers(student)
        state = _unquantized(student)
        self._rest = {n: t for n, t in state.items() if t.dtype == torch.float32}
        self._others = {n: t for n, t in state.items() if t.dtype != torch.float32}

    def key(self) -> str:
        """The same for students whose tensors are read alike."""
        parts = (
            {name: (weight.codes.shape, weight.bits) for name, weight in self._weights.items()},
            {name: len(sites) for name, sites in activation_sites(self._student).items()},
            {name: tensor.shape for name, tensor in self._rest.items()},
            {name: (tensor.shape, tensor.dtype) for name, tensor in self._others.items()},
        )
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def read(self) -> dict[str, Tensor]:
        """The tensors of the file."""
        weights, sites = self._weights.values(), self._sites
        packed = [pack(w.codes.contiguous().byte(), w.bits) for w in weights]
        zero_points = [pack(w.qparams.zero_point.byte(), w.bits) for w in weights]
        return {
            "weight_packed": _join(packed, torch.uint8),
            "weight_scale": _join([w.qparams.scale for w in weights], torch.float32),
            "weight_zero_point": _join(zero_points, torch.uint8),
            "activation_scale": _join([s.scale for s in sites], torch.float32),
            "activation_zero_point": _join([s.zero_point for s in sites], torch.uint8),
            "unquantized": _join([*self._rest.values()], torch.float32),
            **{f"unquantized.{name}": tensor.contiguous() for name, tensor in self._others.items()},
        }

    def bytes(self) -> int:
        """Of all tensors of the file, without making them."""
        total = 5 * len(self._sites)  # a scale in float32 and a zero point of one byte
        for codes, (scale, *_), bits, _ in self._weights.values():
            channels = scale.numel()
            total += packed_bytes(codes.numel(), bits) + packed_bytes(channels, bits) + 4 * channels
        return total + sum(t.nbytes for t in (*self._rest.values(), *self._others.values()))

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Set codes, scales and all other tensors of the student."""
        wanted, found = (
            {name: tensor.numel() for name, tensor in parts.items()}
            for parts in (self.read(), tensors)
        )
        if found != wanted:
            raise InputError(f"the checkpoint's tensors must have sizes {wanted}, got {found}")
        _check_scales(tensors)
        self._write_weights(tensors)
        scales, zero_points = tensors["activation_scale"], tensors["activation_zero_point"].float()
        for quantizer, scale, zero_point in zip(self._sites, scales, zero_points, strict=True):
            quantizer.fix(QParams(scale, zero_point, quant_max_of(quantizer.bits)))
        take = _from_the_front(tensors["unquantized"])
        state = {name: take(own.numel()).view(own.shape) for name, own in self._rest.items()}
        state |= {name: tensors[f"unquantized.{name}"] for name in self._others}
        own, learned = self._student.state_dict(), dict(self._student.named_parameters())
        for name, value in state.items():
            _check_numbers(name, value, finite=name in learned)
            own[name].copy_(value)

    def _write_weights(self, tensors: dict[str, Tensor]) -> None:
        scales = _from_the_front(tensors["weight_scale"])
        packed = _from_the_front(tensors["weight_packed"])
        packed_zero_points = _from_the_front(tensors["weight_zero_point"])

        def take(like: Tensor, stream: Callable[[int], Tensor], bits: int) -> Tensor:
            count = like.numel()
            return unpack(stream(packed_bytes(count, bits)), bits, count).float().view(like.shape)

        for name, (codes, (scale, zero_point, quant_max), bits, axis) in self._weights.items():
            integers = take(codes, packed, bits)
            qparams = QParams(
                scales(scale.numel()).view(scale.shape),
                take(zero_point, packed_zero_points, bits),
                quant_max,
            )
            module = self._student.get_submodule(name)
            set_codes(module, Codes(integers, qparams, bits, axis))


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
