"""The identity of trained weights."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

# What wrappers of torch put between the names of modules, and what is counted and no weight.
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_COUNTERS = {"num_batches_tracked", "n_averaged"}


def _bare(name: str) -> str:
    """A name without what wrappers of torch add to it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def weight_names(state: Mapping[str, Tensor]) -> dict[str, str]:
    """What a state dict calls its tensors, by their bare names and in their order; no counters.

    Where two would have one bare name, the names stay as they are.
    """
    names = [name for name in state if name.rpartition(".")[2] not in _COUNTERS]
    short = {_bare(name): name for name in names}
    if len(short) < len(names):
        short = {name: name for name in names}
    return dict(sorted(short.items()))


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values of a state dict, in the order of the names.

    One network has one fingerprint: it does not matter how many batches BatchNorm has counted, what
    wraps the network, or in which type the same values are held. A rounded copy is another one.
    """
    digest = hashlib.sha256()
    for name, held in weight_names(state).items():
        tensor = _single(state[held].detach().cpu()).contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _single(tensor: Tensor) -> Tensor:
    """Floats as float32 where that holds their values."""
    if not tensor.is_floating_point():
        return tensor
    single = tensor.float()
    exact = tensor.dtype != torch.float64 or torch.equal(single.double(), tensor)
    return single if exact else tensor


def rounding_between(expected: str, state: Mapping[str, Tensor]) -> str:
    """Words for a message where rounding is why a state dict has not the expected fingerprint."""
    for dtype in (torch.bfloat16, torch.float16):  # what bf16 holds, fp16 mostly does as well
        name = str(dtype).removeprefix("torch.")
        rounded = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
        if fingerprint(rounded) == expected:
            return f", of which that one is a copy rounded to {name}"
        if fingerprint(rounded) == fingerprint(state):
            return f", whose values are rounded to {name}: a rounded copy is another teacher"
    return ""
