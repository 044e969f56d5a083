"""The parameters of a run for a network that is at hand, which decides how much fits."""

from typing import Any

from torch import nn

from hast.config.params import SMALLER, own_network
from hast.config.sizes import sizes_within
from hast.config.spec import ModelSpec
from hast.networks.classifier import batch_norm_calls, takes_size
from hast.networks.plan import WEIGHTED, forward_macs, probe_layers
from hast.networks.units import find_units
from hast.pipeline.work import measured_speed


def network_settings(
    network: nn.Module, spec: ModelSpec, *,
    recipe: str, size: str, seed: int, minutes: float | None = None,
    bank_source: str | None = None, **known: Any,
) -> dict[str, Any]:  # fmt: skip
    """The content of a params file for this network, as `hast init` writes it.

    Args:
        network: frozen.
        spec: what it expects and answers.
        recipe, size: see `hast.config.recipes`.
        seed: of all sections.
        minutes: what the bank and one student may take on this machine, about; by default they take
            what recipe and size say.
        bank_source: bank or pictures to take in place of synthesizing; they set the ranges too.
        known: sections `teacher`, and `data_root` and `bit_widths`, see `own_network`.
    """
    values = own_network(
        input_shape=spec.input_shape, macs=forward_macs(network, spec), recipe=recipe, size=size,
        synthesizes=batch_norm_calls(network, spec.input_shape) > 0,
        resizes=takes_size(network, spec, SMALLER),
        **{"teacher": {}, "data_root": None, "bit_widths": []} | known,
    )  # fmt: skip
    for section in values.values():
        if isinstance(section, dict) and "seed" in section:
            section["seed"] = seed
    if bank_source is not None:
        values["bank"]["source"], values["calibrate"]["images"] = bank_source, "bank"
    if minutes is None:
        return values
    passes = 60 * minutes * measured_speed(network, spec)
    units = len(find_units(network, spec, probe_layers(network, spec, WEIGHTED)))
    widths = values.pop("bit_widths")
    return {"bit_widths": widths, **sizes_within(values, passes, units=units)}
