"""The packed checkpoint, the product: a folder with a card and tensors, codes at their true width.

config.json          `CheckpointCard`
model.safetensors    weight_packed, weight_scale, weight_zero_point, activation_scale,
                     activation_zero_point, unquantized; each holds all layers one after the other,
                     for a name and a shape of every tensor would take more room than small networks

The order is that of the modules in the network, which the card says how to build.
"""

import copy
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import Tensor, nn

from hast.config.section import parse_section
from hast.engine.engine import place, select_device
from hast.engine.machine import __version__
from hast.engine.runtime import device_of, seeded
from hast.errors import InputError, first_line
from hast.files.checkpoint_schema import CheckpointCard, describe_plan, plan_of
from hast.files.placing import disk_errors, read_errors, sha256_of, side_folder
from hast.files.weights import WEIGHTS
from hast.networks.batch_norm import freeze
from hast.networks.codes import activation_quantizers, activation_sites, set_codes, weight_codes
from hast.networks.folding import fold_batch_norm as fold
from hast.networks.given import plain_copy
from hast.networks.packed import Layout
from hast.networks.provenance import provenance_of, remember, spec_and_plan
from hast.networks.quantizers import ActivationQuantizer
from hast.networks.sources import build_network
from hast.networks.student import prepare_student, remove_quantizers

CONFIG = "config.json"
_ROUNDING = 0.1  # mean difference of logits, in standard deviations of them


def save(
    student: nn.Module,
    path: Path | str,
    *,
    fold_batch_norm: bool = False,
    source: str | None = None,
    source_args: Mapping[str, Any] | None = None,
) -> Path:
    """Write a student as a packed checkpoint.

    What will be written is first read back to see that it answers as the student does: to the bit
    on the CPU, up to rounding where BatchNorm is folded or the student lies on another device.
    Until then, and where it does not, a checkpoint that lies there stays as it is.

    Args:
        student: of `hast.quantize` or `hast.load`, on any device.
        path: the folder to write.
        fold_batch_norm: let scales and biases take in the BatchNorm layers; smaller, and equal to
            the student up to rounding instead of to the bit.
        source, source_args: how `hast.load` builds the network, where the student does not know it
            from `hast.load_classifier`. Without it `hast.load` has to be given the network.

    Raises:
        InputError: no calibrated student, its source builds another network, or the folder cannot
            be written.
    """
    path = Path(path)
    (spec, plan), known = spec_and_plan(student), provenance_of(student)
    if source is None:
        source, source_args = known.source, known.source_args
    product = _frozen(student)
    if fold_batch_norm:
        product = fold(product, spec)
    layout = Layout(product)
    tensors = serialize(layout.read())
    card = CheckpointCard(
        format="hast-checkpoint",
        version=1,
        source=source,
        source_args=dict(source_args or {}),
        spec=spec,
        teacher=known.teacher,
        batch_norm="folded" if fold_batch_norm or known.batch_norm_folded else "kept",
        layout=layout.key(),
        sha256=hashlib.sha256(tensors).hexdigest(),
        libraries={"hast": __version__, "torch": str(torch.__version__)},
        quantization_config=describe_plan(product, plan),
    )
    exact = device_of(student).type == "cpu" and not fold_batch_norm
    inside = path / CONFIG if path.is_dir() else path  # a folder may be a disk of its own
    with side_folder(inside) as side, disk_errors(path):
        # Not safetensors' `save_file`: what it writes only its owner may read.
        (side / WEIGHTS).write_bytes(tensors)
        _write_card(side, path, student, card, exact=exact)
        path.mkdir(exist_ok=True)
        for name in (WEIGHTS, CONFIG):
            (side / name).replace(path / name)
    return path


def load(
    path: Path | str,
    *,
    network: nn.Module | None = None,
    device: torch.device | str | None = None,
    trust_source: bool = False,
) -> nn.Module:
    """Rebuild the student of a packed checkpoint: eval mode, without gradients.

    Args:
        path: the folder.
        network: the architecture with any weights, where the checkpoint does not say how to build
            it. It is not changed.
        device: where to compute; by default the CPU.
        trust_source: let the checkpoint name a `python:` factory, which is code that will run.

    Raises:
        InputError: a file is missing, damaged or of a newer version, the network does not fit, or
            the source is not trusted.
    """
    path = Path(path)
    with read_errors(path / CONFIG, way_out="is it a packed checkpoint?"):
        content = (path / CONFIG).read_bytes()
    card = parse_section(content, CheckpointCard, name=str(path / CONFIG))
    network = _architecture(card, path, network, trust_source)
    plan = plan_of(network, card.quantization_config)
    student = prepare_student(network, card.spec, plan)
    layout = Layout(student)
    if layout.key() != card.layout:
        raise InputError(
            f"{path}: {card.source or 'the given network'} has other layers than the checkpoint"
            f" (layout {layout.key()}, expected {card.layout}); was it written with another version"
            f" of the library? It was {card.libraries}"
        )
    layout.write(_read_tensors(path, card))
    remember(student, source=card.source, source_args=card.source_args, teacher=card.teacher)
    remember(student, batch_norm_folded=card.batch_norm == "folded")
    return place(freeze(student), select_device(str(device or "cpu")))


def _frozen(student: nn.Module) -> nn.Module:
    """A copy on the CPU whose weights are decided: codes times scales, whatever made them."""
    if any(quantizer.scale.isnan() for quantizer in activation_quantizers(student)):
        raise InputError("the student has no activation ranges; calibrate it first")
    product = copy.deepcopy(student)
    for name, codes in weight_codes(student).items():
        set_codes(product.get_submodule(name), codes)
    # Decided on the student's own device: another one may answer another last bit of exp.
    for name, sites in activation_sites(product).items():
        for index, site in enumerate(activation_quantizers(activation_sites(student)[name])):
            decided = ActivationQuantizer(site.bits, site.momentum).to(site.scale.device)
            decided.fix(site.qparams)
            sites[index] = decided
    return place(freeze(product), torch.device("cpu"))


def _architecture(
    card: CheckpointCard, path: Path, network: nn.Module | None, trusted: bool
) -> nn.Module:
    if network is None:
        if card.source is None:
            raise InputError(
                f"{path} does not say how its network is built; give hast.load the architecture:"
                " hast.load(path, network=MyNetwork())"
            )
        if card.source.startswith("python:") and not trusted:
            raise InputError(
                f"{path} is built by the code {card.source} with {card.source_args}; load it with"
                " trust_source=True (`--trust-source`) if you trust where it comes from, or give"
                " the network"
            )
        network = build_network(card.source, card.source_args).network
    network = freeze(plain_copy(network, say=None).cpu())
    place(network, torch.device("cpu"), card.spec.input_shape)
    return fold(network, card.spec) if card.batch_norm == "folded" else network


def _write_card(
    side: Path, path: Path, student: nn.Module, card: CheckpointCard, *, exact: bool
) -> None:
    """Complete the checkpoint at `side`, which shall come to `path`, and read it back."""
    student = place(freeze(copy.deepcopy(student)), torch.device("cpu"))
    network = remove_quantizers(copy.deepcopy(student)) if card.source is None else None
    noise = torch.randn(2, *card.spec.input_shape, generator=seeded(0, "checkpoint", "twin"))
    way_out = "name the source that made it: hast.save(..., source=..., source_args=...)"
    try:
        (side / CONFIG).write_text(card.model_dump_json(exclude_none=True), encoding="utf-8")
        twin = load(side, network=network, trust_source=True)
        with torch.no_grad():
            answers, expected = twin(noise), student(noise)
    except InputError as error:
        raise InputError(str(error).replace(str(side), str(path))) from None
    except OSError:  # of the disk
        raise
    except Exception as error:  # the source is any code, and may build any network
        raise InputError(
            f"{path}: {card.source or 'the network'} with {card.source_args} does not rebuild the"
            f" student ({first_line(error)}); {way_out}"
        ) from error
    # Rounding may move single values to the neighbouring code.
    difference = (answers - expected).abs()
    near = bool(difference.mean() <= _ROUNDING * expected.std())
    if not (torch.equal(answers, expected) if exact else near):
        raise InputError(
            f"{path}: read back with {card.source or 'the network'}, it answers otherwise than the"
            f" student, by up to {difference.max():.3g}; {way_out}"
        )


def _read_tensors(path: Path, card: CheckpointCard) -> dict[str, Tensor]:
    file = path / WEIGHTS
    with read_errors(file, SafetensorError):
        found = sha256_of(file)
        if found != card.sha256:
            raise InputError(
                f"{file}: has sha256 {found} but {CONFIG} says {card.sha256}; fetch it again"
            )
        return load_file(file)
