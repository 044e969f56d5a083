"""Does a network keep the contract of its spec?"""

import torch
from torch import Tensor, nn

from hast.config.spec import ModelSpec, PartialSpec, merge_specs
from hast.engine.engine import Shape
from hast.engine.runtime import probe_images
from hast.errors import InputError, first_line, warn
from hast.networks.batch_norm import batch_norms, tap_batch_norm_inputs


def count_classes(network: nn.Module, input_shape: Shape) -> int:
    """Number of logits that the network answers to an image.

    Raises:
        InputError: it has no parameters, cannot take the shape, or answers something else than one
            row of finite logits for each image.
    """
    name, shape = type(network).__name__, "x".join(map(str, input_shape))
    if next(network.parameters(), None) is None:
        raise InputError(f"{name} has no parameters, so there is nothing to quantize")
    try:
        with torch.no_grad():
            logits = network.eval()(probe_images(network, input_shape))
    except Exception as error:  # a forward may raise anything
        raise InputError(
            f"{name} cannot take {shape} images ({first_line(error)}); mend its forward, or"
            " set input_shape"
        ) from error
    if not isinstance(logits, Tensor):
        raise InputError(
            f"{name} must answer one tensor of logits, got a {type(logits).__name__}; wrap it in a"
            " module that returns the logits alone"
        )
    if logits.ndim != 2 or len(logits) != 2:
        raise InputError(
            f"{name} must answer logits of shape (images, classes), got {tuple(logits.shape)} for"
            " two images"
        )
    if not torch.isfinite(logits).all():
        raise InputError(f"{name} answers NaN or infinity to an image of noise; check its weights")
    if logits.shape[1] < 2:
        raise InputError(
            f"{name} answers one logit an image, but classes are at least two; wrap it in a module"
            " that returns torch.cat([torch.zeros_like(x), x], 1), whose softmax is its sigmoid"
        )
    if (logits >= 0).all() and torch.allclose(logits.sum(1), torch.ones(2).to(logits)):
        warn(f"{name} answers probabilities, which are taken for logits; leave its softmax out")
    return logits.shape[1]


def takes_size(network: nn.Module, spec: ModelSpec, share: float) -> bool:
    """Whether a network answers images with sides that are this share of its own."""
    channels, height, width = spec.input_shape
    try:
        classes = count_classes(network, (channels, round(share * height), round(share * width)))
    except InputError:
        return False
    return classes == spec.num_classes


def batch_norm_calls(network: nn.Module, input_shape: Shape) -> int:
    """How often a forward pass of a network in eval mode reads stored BatchNorm statistics."""
    with torch.no_grad(), tap_batch_norm_inputs(network) as tap:
        network(probe_images(network, input_shape))
    return len(tap)


def require_batch_norm(network: nn.Module, input_shape: Shape) -> None:
    """Check that there are statistics to match, without which nothing can be synthesized.

    Raises:
        InputError: there is no BatchNorm layer, or the forward never calls one.
    """
    if batch_norm_calls(network, input_shape):
        require_gradient(network, input_shape)
        return
    lacks = (
        "has BatchNorm layers but its forward never calls them, and their statistics are"
        if batch_norms(network)
        else "has no BatchNorm layer with running statistics, which are"
    )
    raise InputError(
        f"{type(network).__name__} {lacks} what synthesis and the generator match; take a folder of"
        " pictures as the bank: bank.source: FOLDER with calibrate.images: bank, hast quantize"
        " --bank FOLDER, or hast.import_pictures"
    )


def require_gradient(network: nn.Module, input_shape: Shape) -> None:
    """Check that logits move with the image, without which nothing can be optimized.

    Raises:
        InputError: the forward cuts the gradient off.
    """
    with torch.enable_grad():
        logits = network(probe_images(network, input_shape).requires_grad_())
    if not logits.requires_grad:
        raise InputError(
            f"{type(network).__name__}: no gradient comes back from its logits to the image; take"
            " no_grad, inference_mode, detach and numpy out of its forward"
        )


def check_classifier(network: nn.Module, spec: ModelSpec) -> None:
    """Try the network on two images.

    Raises:
        InputError: see `count_classes`; or another number of classes than the spec says.
    """
    classes = count_classes(network, spec.input_shape)
    if classes != spec.num_classes:
        raise InputError(
            f"{type(network).__name__} answers {classes} logits an image but num_classes is"
            f" {spec.num_classes}"
        )


def resolve_spec(network: nn.Module, known: PartialSpec, given: PartialSpec) -> ModelSpec:
    """The spec of a network: what its source knows, what the user gives, the classes it answers.

    Raises:
        InputError: the parts contradict each other or the network, or something is missing.
    """
    shape = given.input_shape or known.input_shape
    if shape is not None and given.num_classes is None and known.num_classes is None:
        known = known.model_copy(update={"num_classes": count_classes(network, shape)})
    spec = merge_specs(known, given)
    check_classifier(network, spec)
    return spec
