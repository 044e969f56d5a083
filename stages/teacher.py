"""teacher: obtain the full-precision network; train it where it is the built-in default."""

import torch
from torch import nn

from hast.config.spec import ModelSpec
from hast.config.teacher import TeacherConfig, TrainingConfig
from hast.engine.engine import place, select_device
from hast.engine.progress import drain
from hast.engine.runtime import seeded
from hast.errors import InputError
from hast.files.classifiers import load_classifier
from hast.files.datasets import load_digits_split
from hast.files.tables import write_json
from hast.files.teachers import save_teacher
from hast.files.weights import load_state
from hast.loops.train_teacher import total_steps, train_teacher
from hast.networks.batch_norm import batch_norms, freeze
from hast.networks.given import plain_copy
from hast.networks.sources import build_network, is_trained_here
from hast.stages.entry import Device, In, Out, main, section


def run(*, inputs: In, out: Out, metrics: Out, device: Device = "auto") -> None:
    """Write the teacher's weights and card to OUT; INPUTS only says when to do it again."""
    config = section("teacher", TeacherConfig)
    network, spec = load_classifier(
        config.source,
        weights=config.weights,
        weights_entry=config.weights_entry,
        source_args=config.source_args,
        spec=config.spec,
        seed=config.training.seed,
    )
    if config.weights is None and is_trained_here(config.source):
        _train(network, spec, config.training, select_device(device))
    _check_it_can_be_rebuilt(network, spec, config)

    save_teacher(out, network, spec, config.source, config.source_args)
    parameters = sum(p.numel() for p in network.parameters())
    layers = len(batch_norms(network))
    write_json(metrics, {"parameters": parameters, "batch_norm_layers": layers})


def _train(
    network: nn.Module, spec: ModelSpec, config: TrainingConfig, where: torch.device
) -> None:
    images, labels = load_digits_split("train", spec)
    steps = train_teacher(place(network, where), images.to(where), labels.to(where), config)
    total = total_steps(config, len(images))
    drain(steps, total=total, label="teacher", fields=("loss",))


def _check_it_can_be_rebuilt(network: nn.Module, spec: ModelSpec, config: TeacherConfig) -> None:
    """Later stages build the network without its pretrained tag; some libraries then build another
    one (torchvision's GoogLeNet and Inception normalize their input only with a tag)."""
    twin = plain_copy(build_network(config.source, config.source_args).network, say=None)
    load_state(twin, network.state_dict(), name=f"{config.source} built without its tag")
    network, twin = (freeze(n).to("cpu") for n in (network, twin))
    noise = torch.randn(2, *spec.input_shape, generator=seeded(0, "teacher", "twin"))
    if not torch.allclose(network(noise), twin(noise), atol=1e-4):
        raise InputError(
            f"{config.source} computes something else with its pretrained tag than without; set the"
            " options that the tag implies in teacher.source_args, such as {transform_input: true}"
        )


if __name__ == "__main__":
    main(run)
