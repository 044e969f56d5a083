"""Where activation quantizers hang: on the input or the output of a module, one for each call.

Hooks are module-level functions that find their quantizer through the module they are called with:
a deep copy of the network then uses its own quantizers, not those of the original.
"""

from typing import Any

from torch import Tensor, nn

from hast.config.layers import Placement
from hast.errors import InputError
from hast.networks.hooks import with_first
from hast.networks.quantizers import ActivationQuantizer

# The attributes that hold a module's quantizers: the student's own, and those of `outputs.py`.
SITE, OUTPUT_SITE = "activation_quantizers", "output_quantizers"


class CallSites(nn.ModuleList):
    """The activation quantizers of one module, one for each time a forward pass calls it.

    A module that is called several times (torchvision's ResNet shares one ReLU in each block) sees
    activations of different ranges.
    """

    def __init__(self, quantizers: list[ActivationQuantizer]) -> None:
        super().__init__(quantizers)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        if len(self) == 1:
            site = 0
        else:
            site = self.calls
            self.calls += 1
            if site >= len(self):
                raise InputError(
                    f"a module is called more often ({site + 1}) than in the pass that placed its"
                    f" quantizers ({len(self)}); call the whole network, or skip the module"
                )
        result: Tensor = self[site](x)
        return result


def attach(module: nn.Module, sites: CallSites, placement: Placement) -> None:
    """Quantize the first argument of `module` from now on, or what it returns."""
    module.add_module(SITE, sites)
    if placement == "inputs":
        module.register_forward_pre_hook(_quantize_input, with_kwargs=True)
    else:
        module.register_forward_hook(_quantize_output)


def attach_behind(module: nn.Module, sites: CallSites) -> None:
    """Quantize what `module` returns from now on, beside what `attach` does."""
    module.add_module(OUTPUT_SITE, sites)
    module.register_forward_hook(_quantize_behind)


def restart_call_counts(root: nn.Module, _args: Any = ()) -> None:
    """Let the modules inside `root` begin at their first call: before each forward pass, as a hook
    of `root`, or where they are called one by one."""
    for module in root.modules():
        if isinstance(module, CallSites):
            module.calls = 0


def detach(module: nn.Module) -> None:
    """Undo what the functions above did to `module`."""
    for name in (SITE, OUTPUT_SITE):
        if hasattr(module, name):
            delattr(module, name)
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for key, hook in list(hooks.items()):
            if hook in _HOOKS:
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)


def _quantize_input(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return with_first(args, kwargs, getattr(module, SITE))


def _quantize_output(module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Any:
    return getattr(module, SITE)(output)


def _quantize_behind(module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> Any:
    return getattr(module, OUTPUT_SITE)(output)


_HOOKS = (_quantize_input, _quantize_output, _quantize_behind, restart_call_counts)
