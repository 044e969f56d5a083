"""Networks of three libraries through the whole method, with random weights and small inputs."""

import copy

import pytest
import torch
from conftest import refused, spec_of
from students import is_same, observed
from torch import nn
from torch.nn.utils import parametrize

from hast.config.finetune import FinetuneConfig
from hast.config.spec import ModelSpec
from hast.config.synthesize import SynthesisConfig
from hast.loops.finetune import finetune
from hast.loops.synthesize import synthesize
from hast.networks.batch_norm import batch_norms, freeze
from hast.networks.blocks import find_blocks
from hast.networks.classifier import check_classifier, require_batch_norm
from hast.networks.provenance import provenance_of
from hast.networks.quantizers import WeightQuantizer
from hast.networks.sources import build_network
from hast.networks.student import prepare_student, remove_quantizers

ZOO = {
    "torchvision:resnet18": {},
    "torchvision:mobilenet_v2": {},
    "torchvision:mobilenet_v3_small": {},
    "torchvision:shufflenet_v2_x0_5": {},
    "torchvision:densenet121": {},
    "torchvision:googlenet": {"init_weights": False},
    "timm:mobilenetv3_small_100": {},
    "timm:tf_efficientnet_b0": {},
    "timm:mobilevitv2_050": {},
    "timm:repvgg_a0": {},
    "timm:regnety_002": {},
    "timm:resnetv2_18": {},
    "pytorchcv:resnet20_cifar10": {"num_classes": 10},
    "pytorchcv:mobilenet_wd4": {},
}
WITHOUT_BATCH_NORM = {
    "torchvision:convnext_tiny": {},
    "torchvision:vit_b_32": {"image_size": 64},
    "timm:convnext_atto": {},
    "timm:vit_tiny_patch16_224": {"img_size": 32},
}


def build(source: str, arguments: dict) -> tuple[nn.Module, ModelSpec]:
    library = source.partition(":")[0]
    pytest.importorskip(library, reason=f"{library} is an optional extra")
    size = {"pytorchcv:mobilenet_wd4": 224, "torchvision:vit_b_32": 64}.get(source, 32)
    torch.manual_seed(0)
    arguments = {"num_classes": 7} | arguments
    network = build_network(source, arguments).network
    return network, spec_of((3, size, size), arguments["num_classes"], std=(0.25,) * 3)


def warm(network: nn.Module, spec: ModelSpec) -> nn.Module:
    """BatchNorm statistics of noise: without them the activations of a random network explode."""
    network.train()
    for norm in batch_norms(network):
        nn.init.ones_(norm.weight)  # timm starts the last one of a residual body at zero
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(8, *spec.input_shape))
    return freeze(network)


@pytest.mark.parametrize("source", ZOO)
def test_the_method_works_on(source):
    teacher, spec = build(source, ZOO[source])
    warm(teacher, spec)
    check_classifier(teacher, spec)
    assert batch_norms(teacher)
    original = copy.deepcopy(teacher.state_dict())

    config = SynthesisConfig(samples=4, batch_size=4, steps=2)
    *_, synthetic = synthesize(teacher, None, spec, config, [0])
    assert torch.isfinite(synthetic.images).all()

    student = observed(teacher, spec, synthetic.images)
    plan = provenance_of(student).plan
    x = torch.randn(2, *spec.input_shape)
    assert not torch.equal(student(x), teacher(x))

    blocks = find_blocks(teacher, spec)
    assert blocks
    gradients = dict.fromkeys(plan.weights, 0.0)
    settings = FinetuneConfig(steps=2, batch_size=4, milestones=(), learning_rate=1e-9)
    for step in finetune(student, teacher, synthetic.images, torch.ones(4), blocks, settings):
        assert torch.isfinite(step.loss)
        assert step.alignment > 0
        assert step.promoted > 0
        for name in gradients:
            gradient = student.get_submodule(name).parametrizations.weight.original.grad
            gradients[name] += gradient.abs().sum().item()
    assert [name for name, total in gradients.items() if total == 0] == []
    assert all(p.grad is None for p in teacher.parameters())

    twin = copy.deepcopy(student)
    assert torch.equal(twin(x), student(x))
    reloaded = prepare_student(teacher, spec, plan)
    reloaded.load_state_dict(student.state_dict(), strict=True)
    assert torch.equal(reloaded(x), student(x))

    if sum(p.numel() for p in teacher.parameters()) < 2e6:  # their search takes long
        learned = observed(teacher, spec, synthetic.images, quantizer="learned")
        learned(x).square().sum().backward()
        scales = [p for n, p in learned.named_parameters() if n.endswith("log_scale")]
        assert len(scales) >= len(plan.weights) + len(plan.activations)
        assert all(p.grad is not None and p.grad.isfinite().all() for p in scales)

    plain = remove_quantizers(prepare_student(teacher, spec, plan))
    assert is_same(plain.state_dict(), original)
    assert torch.equal(plain(x), teacher(x))


@pytest.mark.parametrize("source", WITHOUT_BATCH_NORM)
def test_a_network_without_batch_norm_gets_the_clear_error(source):
    network, spec = build(source, WITHOUT_BATCH_NORM[source])
    check_classifier(network, spec)
    with refused("has no BatchNorm layer with running statistics"):
        require_batch_norm(network, spec.input_shape)


def test_weights_of_a_standardised_convolution_keep_few_values_a_channel(monkeypatch):
    """timm standardises the weight inside forward: an affine map of each channel's codes."""
    layers = pytest.importorskip("timm.layers", reason="timm is an optional extra")
    conv = layers.StdConv2d(3, 6, 3)
    parametrize.register_parametrization(conv, "weight", WeightQuantizer(3))
    seen = []
    original = torch.nn.functional.conv2d

    def spy(x, weight, *rest):
        seen.append(weight)
        return original(x, weight, *rest)

    monkeypatch.setattr("torch.nn.functional.conv2d", spy)
    conv(torch.randn(1, 3, 8, 8)).square().sum().backward()
    assert all(len(channel.unique()) <= 8 for channel in seen[0].flatten(1))
    assert conv.parametrizations.weight.original.grad.abs().sum() > 0
