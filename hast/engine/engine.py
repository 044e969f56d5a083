"""How the heavy functions run: device, precision, memory format, compilation.

Loops say what is computed; this room says how. Nothing here is a parameter: it changes a result by
no more than rounding. The choice depends on the parameters and on the machine alone, never on a
measured time, so that two runs on one machine give the same bytes.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NamedTuple, ParamSpec, Protocol, TypeVar

import torch
import torch._functorch.config as functorch
from torch import Tensor, nn

from hast.engine.runtime import device_of, probe_images, tell_compiler
from hast.errors import HastError, InputError, first_line, warn

Precision = Literal["auto", "fp32", "bf16"]
Switch = Literal["auto", "on", "off"]

Shape = tuple[int, int, int]
CONTIGUOUS = "hast_contiguous"  # an attribute of networks that take no other layout

# Multiply-adds from which compilation (seconds to a minute) and bf16 pay on any machine measured.
_LARGE_WORK = 1e13

# Rules that keep results for the backward pass; without them it computes more and reads less.
_RECOMPUTE = {
    "ban_recompute_used_far_apart": False,
    "ban_recompute_long_fusible_chains": False,
    "ban_recompute_materialized_backward": False,
}

# For bf16 on a CPU with AVX-512 BF16 and no AMX. For vectors of 512 bits torch 2.14.1 writes sums
# over bf16 tensors of two memory formats that can be NaN; for 256 bits they are right, and faster.
_HALF_VECTORS: dict[str, str | int | bool | Callable[..., Any]] = {"cpp.simdlen": 256}

# Values of images that a network is asked about at once: 27 of 3 x 224 x 224, of which a layer
# answers with up to 130 MB; 1,365 of 3 x 32 x 32.
_TOGETHER = 1 << 22

P = ParamSpec("P")
R = TypeVar("R")
Q = ParamSpec("Q")
T = TypeVar("T")
NetworkT = TypeVar("NetworkT", bound=nn.Module)


class Images(Protocol):
    """Many images (N, C, H, W), float32, normalized pixels: a tensor, or what a bank stores, which
    is decoded as it is taken."""

    @property
    def device(self) -> torch.device: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Tensor: ...
    def split(self, size: int, /) -> Iterable[Tensor]: ...
    def to(self, device: torch.device, /) -> "Images": ...


class Engine(NamedTuple):
    """A choice for one loop."""

    bf16: bool = False  # autocast; what must stay in fp32 casts itself
    compile: bool = False

    def wrap(
        self, function: Callable[P, R], device: torch.device, *, recompute: bool = False
    ) -> "Wrapped[P, R]":
        """`function`, run as this engine says.

        Wrap once and call often: each wrapping compiles anew. What is returned also takes whole
        steps, `wrapped.step(gradients, x)`: where the compiler fails in any pass of one, forward
        or backward, it warns once, says why, and does that step and all others without.

        Args:
            function: computes a loss.
            device: where its tensors are.
            recompute: let compiled code on a CPU compute elementwise results again in the backward
                pass instead of keeping them. Pays where many activations are clipped or rounded:
                their masks are slow to store.
        """
        autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16)

        def cast(*args: P.args, **kwargs: P.kwargs) -> R:
            with autocast:
                return function(*args, **kwargs)

        if not self.compile:
            return Wrapped(cast)
        tell_compiler()
        if device.type == "cpu":
            _pool_by_torch()
        # Compiled code is kept with the code object, a few entries each, so one for each wrapping.
        cast.__code__ = cast.__code__.replace()
        partitioning = _RECOMPUTE if recompute and device.type == "cpu" else {}
        options = _HALF_VECTORS if self.bf16 and _has_bf16_vectors_only(device) else None
        return Wrapped(cast, torch.compile(cast, dynamic=False, options=options), partitioning)


@dataclass(eq=False)
class Wrapped(Generic[P, R]):
    """A function that runs compiled, until the compiler fails, or plain from the start."""

    plain: Callable[P, R]
    compiled: Callable[P, R] | None = None
    partitioning: dict[str, bool] = field(default_factory=dict)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self.compiled is None:
            return self.plain(*args, **kwargs)
        with functorch.patch(self.partitioning):
            return self.compiled(*args, **kwargs)

    def step(self, gradients: Callable[Q, T], *args: Q.args, **kwargs: Q.kwargs) -> T:
        """`gradients(...)`, which calls this function and runs its backward passes.

        Code is compiled when a pass first needs it: at another shape, or in the backward pass. So
        what is tried again is the whole step, which must start from gradients of zero. An error
        that plain code raises as well is no fault of the compiler.
        """
        try:
            return gradients(*args, **kwargs)
        except (HastError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a compiler may raise anything
            if self.compiled is None:
                raise
            self.compiled = None
            result = gradients(*args, **kwargs)
            warn(f"running without compilation: {first_line(error)}")
            return result


PLAIN = Engine()


@functools.cache
def _pool_by_torch() -> None:
    """Have compiled code on a CPU call torch for the backward pass of max pooling.

    Where algorithms must be deterministic the compiler writes one that looks, for every pixel, into
    all windows that hold it: a third of a step of ResNet-18. Torch's own is deterministic on a CPU
    as well. There is no setting for that, so the compiler's table of operators is changed.
    """
    operator = torch.ops.aten.max_pool2d_with_indices_backward.default
    try:
        from torch._inductor.lowering import fallback_handler, lowerings

        written, called = lowerings[operator], fallback_handler(operator, add_to_fallback_set=False)
    except (ImportError, KeyError, TypeError):
        return  # where torch has moved them, code is right and slow

    def lower(gradient: Any, *args: Any) -> Any:
        return (called if gradient.get_device().type == "cpu" else written)(gradient, *args)

    lowerings[operator] = lower


def select_device(name: str = "auto") -> torch.device:
    """The named device; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        InputError: the name is malformed or the device is not there.
    """
    if name == "auto":
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name} cannot be used ({first_line(error)}); try cpu") from None
    return device


def choose_engine(
    device: torch.device, *, work: float, precision: Precision = "auto", compile: Switch = "auto"
) -> Engine:
    """The engine of one loop.

    Args:
        device: where it runs.
        work: multiply-adds of the whole loop.
        precision: `auto` takes bf16 where it is fast and the work is large.
        compile: `auto` compiles where the work is large.
    """
    large = work >= _LARGE_WORK
    bf16, compiled = precision == "bf16", compile == "on"
    if precision == "auto":
        bf16 = large and bf16_is_fast(device)
    if compile == "auto":
        compiled = large and device.type != "mps"
    return Engine(bf16=bf16, compile=compiled)


def place(network: NetworkT, device: torch.device, shape: Shape | None = None) -> NetworkT:
    """Move a network and lay its convolutions out channels-last, the fast layout everywhere.

    Args:
        network: in eval mode where a shape is given.
        device: where to.
        shape: (C, H, W) of an image. A network that then fails on such images is laid out as usual,
            and so are the images it will be given: `view` takes feature maps in no other layout.
    """
    network.to(device)
    if not vars(network).get(CONTIGUOUS):
        _lay_out(network, torch.channels_last)
        if shape and not _answers(network, shape):
            _lay_out(network, torch.contiguous_format)
            vars(network)[CONTIGUOUS] = True
    return network


def _lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.ndim == 4:  # others have no such layout
            tensor.data = tensor.data.contiguous(memory_format=layout)


def _answers(network: nn.Module, shape: Shape) -> bool:
    try:
        with torch.no_grad():
            network(place_images(probe_images(network, shape), device_of(network)))
    except Exception:  # a forward may raise anything
        return False
    return True


def place_images(images: Tensor, device: torch.device) -> Tensor:
    """Images (N, C, H, W) on `device`, laid out channels-last."""
    return images.to(device, memory_format=torch.channels_last)


def in_parts(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, K) of images (N, C, H, W), of so few at once that large ones fit into memory."""
    at_once = max(1, _TOGETHER // images.shape[1:].numel())
    return torch.cat([network(part) for part in images.split(at_once)])


def hold_images(images: Images, device: torch.device) -> Images:
    """Many images to draw batches from: on `device` if they fit there with room to spare, else
    where they are. On a CPU nothing is copied."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if images.nbytes < free / 2:
            return images.to(device)
    return images


def bf16_is_fast(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32. On CPUs that takes AMX, or AVX-512 BF16 as AMD builds it;
    on an Intel CPU with AVX-512 BF16 alone, steps of ResNet-20 took 1.3 and 1.4 times as long as in
    fp32 (docs/performance.md)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    units = torch.cpu.get_capabilities()
    amd = str(units.get("cpu_name")).startswith("AMD")
    return bool(units.get("amx_bf16") or (amd and units.get("avx512_bf16")))


def _has_bf16_vectors_only(device: torch.device) -> bool:
    units = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return bool(units.get("avx512_bf16") and not units.get("amx_bf16"))
