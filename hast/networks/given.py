"""A teacher as users have it in memory, made into one that can be computed with here.

What trains a network wraps it, and what serves it rounds it. A copy without either is taken: the
module inside of `DataParallel`, `torch.compile` or an average of weights; values in float32;
weights that are computed from other tensors (`weight_norm`, pruning) computed once and for all.
What that changes of the numbers is said.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.optim.swa_utils import AveragedModel

from hast.errors import InputError, warn
from hast.networks.plan import WEIGHTED
from hast.networks.provenance import provenance_of

# What these and other wrappers call the network inside.
_INSIDE = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
Say = Callable[[str], Any]


def plain_copy(network: nn.Module, *, say: Say = warn) -> nn.Module:
    """A copy of a network, without what was put around it; of a student, a copy.

    Args:
        network: as a user has it; it stays as it is.
        say: called with what changes its numbers or names.

    Raises:
        InputError: it is no module, or none into which quantizers can be put.
    """
    if not isinstance(network, nn.Module):
        raise InputError(f"a network must be a torch.nn.Module, got {type(network).__name__}")
    if provenance_of(network).plan is not None:
        return copy.deepcopy(network)
    inside = _inside(network)
    _refuse_what_cannot_be_quantized(inside)
    memo: dict[int, Any] = {}
    for module in inside.modules():  # of the old weight_norm; deepcopy takes no results
        results = [v for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf]
        memo |= {id(result): result.detach().clone() for result in results}
    for module in reversed([*inside.modules()]):  # the innermost first
        if _inside(module) is not module:
            memo[id(module)] = copy.deepcopy(_inside(module), memo)
    copied = copy.deepcopy(inside, memo)
    _compute_weights(copied, say)
    _to_float32(copied, say)
    _thaw(copied)
    return copied


def _refuse_what_cannot_be_quantized(network: nn.Module) -> None:
    name = type(network).__name__
    if isinstance(network, torch.jit.ScriptModule):
        name = network.original_name
        found, way_out = "scripted", "give the network that it was scripted from"
    elif isinstance(network, GraphModule) and not any(
        isinstance(module, WEIGHTED) for module in network.modules()
    ):
        found, way_out = "an exported graph without modules", "give the network it was made from"
    elif any(type(m).__module__.startswith("torch.ao.nn") for m in network.modules()):
        found, way_out = "quantized already", "give the network in full precision"
    elif any(map(is_lazy, network.parameters())):
        found, way_out = "lazy and has not seen an image", "call it once"
    elif any(parameter.is_meta for parameter in network.parameters()):
        found, way_out = "on the device meta, without values", "load its weights"
    else:
        return
    raise InputError(f"{name} is {found}, so no quantizers can be put into it; {way_out}")


def _inside(network: nn.Module) -> nn.Module:
    """The network in all its wrappers; torch.compile's would import the compiler to be named."""
    while not isinstance(network, torch.jit.ScriptModule):
        names = ("module",) if isinstance(network, _WRAPPERS) else _INSIDE
        inside = next((network._modules[n] for n in names if n in network._modules), None)
        if inside is None:
            break
        network = inside
    return network


def _compute_weights(network: nn.Module, say: Say) -> None:
    """Let what computes a parameter do so once."""
    computed = []
    for name, module in network.named_modules():
        if parametrize.is_parametrized(module):
            held = {key: getattr(module, key) for key in module.parametrizations}
            # Torch's own removal would change the class that deep copies share.
            del module.parametrizations
            module.__class__ = type(module).__bases__[0]
        else:
            held = _by_hook(module)
        for key, value in held.items():
            module.register_parameter(key, nn.Parameter(value.detach().contiguous()))
        computed += [f"{name}.{key}" for key in held]
    if computed:
        say(
            f"{type(network).__name__} computes {', '.join(computed[:3])}"
            f"{' and more' if len(computed) > 3 else ''} from other tensors (weight_norm and its"
            " like); they are computed once, and the parts are gone"
        )


def _by_hook(module: nn.Module) -> dict[str, Tensor]:
    """The same by the old functions, which are hooks in front of a module."""
    held: dict[str, Tensor] = {}
    for key, hook in [*module._forward_pre_hooks.items()]:
        if isinstance(hook, BasePruningMethod):
            name = hook._tensor_name
            held[name] = getattr(module, f"{name}_orig") * getattr(module, f"{name}_mask")
            del module._forward_pre_hooks[key]
            del module._parameters[f"{name}_orig"], module._buffers[f"{name}_mask"]
            module.__dict__.pop(name, None)
        if hasattr(hook, "compute_weight") and hasattr(hook, "name"):
            spectral = hasattr(hook, "n_power_iterations")
            weight = hook.compute_weight(module, False) if spectral else hook.compute_weight(module)
            held[hook.name] = weight
            del module._forward_pre_hooks[key]
            for part in ("g", "v", "orig"):
                module._parameters.pop(f"{hook.name}_{part}", None)
            for part in ("u", "v"):
                module._buffers.pop(f"{hook.name}_{part}", None)
            module.__dict__.pop(hook.name, None)
    return held


def _to_float32(network: nn.Module, say: Say) -> None:
    others = {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}
    if others:
        names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
        say(f"{type(network).__name__} has values in {names}; it is computed with in float32")
        network.float()


def _thaw(network: nn.Module) -> None:
    """Put BatchNorm in the place of what computes the same and is none: the frozen ones of
    detection code, and InstanceNorm that tracks statistics. Found by trying, not by name."""
    for name, module in [*network.named_modules()]:
        held = {key: value for key, value in module.state_dict().items() if "." not in key}
        mean = held.get("running_mean")
        if mean is None or isinstance(module, BatchNorm):
            continue
        norm = nn.BatchNorm2d(len(mean), getattr(module, "eps", 1e-5), affine="weight" in held)
        fitting = {key: held[key] for key in held.keys() & norm.state_dict().keys()}
        norm.load_state_dict(fitting, strict=False)
        norm.eval().to(mean.device)
        parts = [norm, *module.children()]  # timm's has its activation inside
        for thawed in (norm, nn.Sequential(*parts)):
            images = torch.randn(2, len(mean), 3, 3, device=mean.device)
            if name and torch.allclose(thawed(images), module(images), atol=1e-4):
                network.set_submodule(name, thawed)
                break
