"""A teacher as users have it in memory, made into one that can be computed with here.

What trains a network wraps it, and what serves it rounds it. A copy without either is taken: the
module inside of `DataParallel`, `torch.compile` or an average of weights; values in float32;
weights that are computed from other tensors (`weight_norm`, pruning) computed once and for all;
BatchNorm and Linear modules where others compute the same. What that changes of the numbers is
said.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.optim.swa_utils import AveragedModel

from hast.engine.runtime import seeded
from hast.errors import InputError, first_line, warn
from hast.networks.attention import split_projections
from hast.networks.plan import WEIGHTED
from hast.networks.provenance import provenance_of, remember

# What these and other wrappers call the network inside.
_INSIDE = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
_STATISTICS = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
Say = Callable[[str], None]


def plain_copy(
    network: nn.Module, *, to_quantize: bool = True, say: Say | None = warn
) -> nn.Module:
    """A copy of a network in eval mode, without what was put around it; of a student, or of what
    holds one, a copy.

    Args:
        network: as a user has it; it stays as it is.
        to_quantize: whether quantizers will be put into it.
        say: called with what changes its numbers or names.

    Raises:
        InputError: it is no module, or none into which quantizers can be put.
    """
    if not isinstance(network, nn.Module):
        raise InputError(f"a network must be a torch.nn.Module, got {type(network).__name__}")
    inside, known = _inside(network), provenance_of(network)
    if any(provenance_of(module).plan is not None for module in inside.modules()):
        return copy.deepcopy(inside).eval()
    if to_quantize or isinstance(inside, torch.jit.ScriptModule):
        _refuse_what_cannot_be_quantized(inside)
    copied = _deep_copy(inside)
    own = [name for name, module in copied.named_modules() if _is_bound_elsewhere(module, copied)]
    if own and to_quantize:
        raise InputError(
            f"{type(copied).__name__} has a forward that was put onto"
            f" {own[0] or 'the instance'}, which no copy takes along; `del` it, or put it into the"
            " class"
        )
    if known.source:  # it may be the wrapper's
        remember(copied, source=known.source, source_args=known.source_args)
    changes = [*_compute_weights(copied), *_to_float32(copied)]
    _thaw(copied)
    split_projections(copied)
    if say:
        for change in changes:
            say(f"{type(copied).__name__} {change}")
    return copied


def _is_bound_elsewhere(module: nn.Module, copied: nn.Module) -> bool:
    """Whether it has a forward of the instance that computes with another module than the copy, as
    a closure does: methods and arguments of `partial` are copied along."""
    forward = vars(module).get("forward")
    if forward is None:
        return False
    given = (getattr(forward, "__self__", None), *getattr(forward, "args", ()))
    return not any(part is inside for part in given for inside in copied.modules())


def _deep_copy(network: nn.Module) -> nn.Module:
    """In eval mode, and without the wrappers inside."""
    memo: dict[int, Any] = {}
    for module in network.modules():  # of the old weight_norm; deepcopy takes no results
        results = [v for v in vars(module).values() if isinstance(v, Tensor) and not v.is_leaf]
        memo |= {id(result): result.detach().clone() for result in results}
    try:
        for module in reversed([*network.modules()]):  # the innermost first
            if _inside(module) is not module:
                memo[id(module)] = copy.deepcopy(_inside(module), memo)
        return copy.deepcopy(network, memo).eval()
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:  # results of a forward, a lock, an open file
        raise InputError(
            f"{type(network).__name__} holds what cannot be copied ({first_line(error)}); delete"
            " it, or keep it elsewhere"
        ) from None


def _refuse_what_cannot_be_quantized(network: nn.Module) -> None:
    modules = [*network.modules()]
    name = getattr(network, "original_name", type(network).__name__)
    if any(isinstance(module, torch.jit.ScriptModule) for module in modules):
        found, way_out = "scripted, or in part", "give the network that it was scripted from"
    elif isinstance(network, GraphModule) and not any(isinstance(m, WEIGHTED) for m in modules):
        found, way_out = "an exported graph without modules", "give the network it was made from"
    elif any(type(module).__module__.startswith("torch.ao.nn") for module in modules):
        found, way_out = "quantized already", "give the network in full precision"
    elif any(map(is_lazy, network.parameters())):
        found, way_out = "lazy and has not seen an image", "call it once"
    elif any(parameter.is_meta for parameter in network.parameters()):
        found, way_out = "on the device meta, without values", "load its weights"
    else:
        return
    raise InputError(f"{name} is {found}, so it cannot be worked with; {way_out}")


def _inside(network: nn.Module) -> nn.Module:
    """The network in all its wrappers; torch.compile's would import the compiler to be named."""
    while not isinstance(network, torch.jit.ScriptModule):
        names = ("module",) if isinstance(network, _WRAPPERS) else _INSIDE
        inside = next((network._modules[n] for n in names if n in network._modules), None)
        if inside is None:
            break
        network = inside
    return network


def _compute_weights(network: nn.Module) -> list[str]:
    """Let what computes a parameter do so once, in double precision on the CPU: the same weights
    on every machine."""
    computed = []
    for name, module in network.named_modules():
        parts = parametrize.is_parametrized(module)
        if not parts and not any(map(_computes, module._forward_pre_hooks.values())):
            continue
        exact = copy.deepcopy(module).cpu().double()
        where = next(module.parameters()).device
        held = _parametrized(exact, module) if parts else _hooked(exact, module)
        for key, value in held.items():
            weight = value.detach().float().contiguous().to(where)
            module.register_parameter(key, nn.Parameter(weight))
            computed.append(f"{name}.{key}")
    if not computed:
        return []
    more = " and more" if len(computed) > 3 else ""
    return [
        f"computes {', '.join(computed[:3])}{more} from other tensors (weight_norm, pruning); they"
        " are computed once, and the parts are gone"
    ]


def _parametrized(exact: Any, module: Any) -> dict[str, Tensor]:
    held = {key: getattr(exact, key) for key in module.parametrizations}
    # Torch's own removal would change the class that deep copies share.
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    return held


def _computes(hook: Any) -> bool:
    """Of the functions that came before parametrizations, which are hooks."""
    return isinstance(hook, (BasePruningMethod, SpectralNorm)) or hasattr(hook, "compute_weight")


def _hooked(exact: nn.Module, module: nn.Module) -> dict[str, Tensor]:
    held: dict[str, Tensor] = {}
    found: list[tuple[int, Any]] = [*module._forward_pre_hooks.items()]
    for key, hook in found:
        if not _computes(hook):
            continue
        if isinstance(hook, BasePruningMethod):
            name, weight = hook._tensor_name, hook.apply_mask(exact)
        elif isinstance(hook, SpectralNorm):
            name, weight = hook.name, hook.compute_weight(exact, do_power_iteration=False)
        else:
            name, weight = hook.name, hook.compute_weight(exact)
        held[name] = weight
        del module._forward_pre_hooks[key]
        for tensors in (module._parameters, module._buffers, vars(module)):
            for part in ("", "_g", "_v", "_u", "_orig", "_mask"):
                tensors.pop(f"{name}{part}", None)
        for hooks in (module._load_state_dict_pre_hooks, module._state_dict_hooks):
            for other, wrapped in [*hooks.items()]:
                if "SpectralNorm" in type(getattr(wrapped, "hook", wrapped)).__name__:
                    del hooks[other]
    return held


def _to_float32(network: nn.Module) -> list[str]:
    others = {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}
    if not others:
        return []
    network.float()
    names = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
    return [f"has values in {names}; it is computed with in float32"]


def _thaw(network: nn.Module) -> None:
    """Put BatchNorm in the place of what computes the same and is none: the frozen ones of
    detection code, and InstanceNorm that tracks statistics."""
    parents = [m for m in network.modules() if not isinstance(m, torch.jit.ScriptModule)]
    for module in [*network.modules()]:
        if (thawed := _as_batch_norm(module)) is not None:
            for parent in parents:
                for leaf, child in parent._modules.items():
                    if child is module:
                        parent._modules[leaf] = thawed


def _as_batch_norm(module: nn.Module) -> nn.Module | None:
    """What a module is in BatchNorm; None if it is that already, or something else.

    Found by trying, not by name, and with other values than its own: the answer is that of the
    class, whether its weights have been loaded or not.
    """
    held = module.state_dict()
    looks_like_it = {"running_mean", "running_var"} <= held.keys() <= _STATISTICS
    if isinstance(module, BatchNorm) or not looks_like_it or held["running_mean"].ndim != 1:
        return None
    mean = held["running_mean"]
    random = seeded(0, "thaw")
    values = {k: torch.rand(v.shape, generator=random).to(v) for k, v in held.items()}
    values["running_var"] *= 1e-4  # where the epsilon counts
    images = torch.rand(2, len(mean), 3, 3, generator=random).to(mean)
    eps, inside = getattr(module, "eps", 1e-5), [*module.children()]  # timm's has its activation
    try:
        tried = copy.deepcopy(module)
        tried.load_state_dict(values)
        with torch.no_grad():
            theirs = tried(images)
            if torch.allclose(_batch_norm(values, eps)(images), theirs, rtol=1e-3):
                return _batch_norm(held, eps)
            if torch.allclose(
                nn.Sequential(_batch_norm(values, eps), *inside)(images), theirs, rtol=1e-3
            ):
                return nn.Sequential(_batch_norm(held, eps), *inside)
    except Exception:  # a forward may raise anything
        return None
    return None


def _batch_norm(held: Mapping[str, Tensor], eps: float) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(held["running_mean"]), eps, affine="weight" in held)
    norm.load_state_dict(dict(held), strict=False)  # a counter may be missing
    return norm.eval().to(held["running_mean"])
