import torch
from students import observed, prepared
from torch import nn

import hast
from hast.config.calibrate import CalibrationConfig
from hast.config.generator import GeneratorConfig
from hast.config.teacher import TrainingConfig
from hast.files.datasets import load_digits_split
from hast.loops.calibrate import bank_batches, correct_batch_norm, generator_batches, observe_ranges
from hast.loops.evaluate import predict
from hast.loops.profile import profile_batches, whole_profile
from hast.loops.sensitivity import measure_sensitivity
from hast.loops.train_generator import build_generator, train_generator
from hast.loops.train_teacher import total_steps, train_teacher
from hast.networks.batch_norm import batch_norms, tap_batch_norm_inputs
from hast.networks.digits_resnet import DIGITS_SPEC, DigitsResNet
from hast.networks.quantizers import ActivationQuantizer


def test_a_few_epochs_teach_the_built_in_network_and_freeze_it():
    torch.manual_seed(0)
    images, labels = load_digits_split("train", DIGITS_SPEC)
    network = DigitsResNet(widths=(8, 16))
    config = TrainingConfig(epochs=4)
    steps = [*train_teacher(network, images, labels, config)]
    assert len(steps) == total_steps(config, len(images)) == 4 * (1198 // 64)
    test = load_digits_split("test", DIGITS_SPEC)
    assert hast.evaluate(network, [test], progress=False).top1 > 0.9
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_the_generator_learns_to_be_classified_as_asked(teacher, spec):
    config = GeneratorConfig(steps=150, batch_size=32, width=16, latent_dim=8, learning_rate=1e-2)
    generator = build_generator(spec, config)
    teacher.classifier.weight.mul_(8)  # untrained, it tells its classes hardly apart
    losses = [step.cross_entropy for step in train_generator(generator, teacher, config)]
    assert torch.stack(losses[-20:]).mean() < 0.9 * torch.stack(losses[:20]).mean()
    assert not generator.training


def test_generators_of_one_seed_start_alike_and_leave_the_global_state(spec):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = build_generator(spec, GeneratorConfig(width=8))
    assert torch.equal(torch.rand(3), expected)
    second = build_generator(spec, GeneratorConfig(width=8))
    assert torch.equal(first.project.weight, second.project.weight)


def test_calibration_sets_every_range_from_the_generators_images(teacher, spec):
    generator = build_generator(spec, GeneratorConfig(width=8, latent_dim=4)).eval()
    config = CalibrationConfig(batches=3, batch_size=8, range_momentum=0.0)
    student = prepared(teacher, spec, range_momentum=0.0)
    assert len([*observe_ranges(student, generator_batches(generator, config))]) == 3
    quantizers = [m for m in student.modules() if isinstance(m, ActivationQuantizer)]
    assert all(q.mode == "quantize" and q.minimum <= q.maximum for q in quantizers)
    *_, last = generator_batches(generator, config)
    assert student.stem[0].activation_quantizers[0].maximum == last.max()


def test_batches_of_a_bank_are_its_images_drawn_by_seed():
    images = torch.arange(5.0).view(5, 1, 1, 1)
    config = CalibrationConfig(images="bank", batches=2, batch_size=64)
    first, second = bank_batches(images, config, torch.device("cpu"))
    assert first.unique().tolist() == [0, 1, 2, 3, 4]
    assert not torch.equal(first, second)
    assert torch.equal(first, next(bank_batches(images, config, torch.device("cpu"))))


def test_corrected_batch_norm_expects_what_quantization_made_of_its_input(teacher, spec):
    images = torch.randn(64, *spec.input_shape)
    student = observed(teacher, spec, images, "w2a2")
    before = (student(images) - teacher(images)).square().mean()
    # Without momentum each round settles one more layer.
    rounds = len(batch_norms(student)) + 1
    list(correct_batch_norm(student, teacher, [images] * rounds, momentum=0.0))
    assert (student(images) - teacher(images)).square().mean() < before
    with tap_batch_norm_inputs(student) as own, tap_batch_norm_inputs(teacher) as whole:
        student(images), teacher(images)
    for layer, mine, its in zip(batch_norms(student), own, whole, strict=True):
        moved = mine.batch.mean - its.batch.mean
        assert torch.allclose(layer.running_mean, its.running.mean + moved, atol=1e-4)
        assert (layer.running_var > 0).all()


def difficulty_of(teacher, images, labels):
    return 1 - teacher(images).softmax(1)[torch.arange(len(labels)), labels]


def test_the_profile_has_a_gap_for_every_batch_norm(teacher):
    images, labels = torch.randn(16, 1, 8, 8), torch.arange(16) % 10
    batches = zip(images.split(8), labels.split(8), strict=True)
    one, two = profile_batches(teacher, batches)
    assert one.bns_gap.shape == (len(batch_norms(teacher)),)
    whole = whole_profile([one, two])
    assert torch.equal(whole.bns_gap, (one.bns_gap + two.bns_gap) / 2)
    assert torch.allclose(whole.difficulty, difficulty_of(teacher, images, labels), atol=1e-5)


def test_a_suspended_loop_leaves_autograd_on(teacher, spec):
    generator = build_generator(spec, GeneratorConfig(width=8, latent_dim=4)).eval()
    student = prepared(teacher, spec)
    images, labels = torch.randn(8, 1, 8, 8), torch.arange(8)
    batches = generator_batches(generator, CalibrationConfig(batches=2, batch_size=8))
    for records in (
        batches,
        observe_ranges(student, batches),
        predict({"teacher": teacher}, [(images, labels)]),
        profile_batches(teacher, [(images, labels)]),
        measure_sensitivity(teacher, images, ["classifier"], [2]),
    ):
        next(records)
        assert torch.is_grad_enabled()


def test_a_network_agrees_with_itself_also_where_answers_tie():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 1000))
    nn.init.zeros_(network[1].weight)
    nn.init.zeros_(network[1].bias)
    batch = (torch.randn(16, 1, 2, 2), torch.zeros(16, dtype=torch.int64))
    assert hast.evaluate(network, [batch], progress=False).agreement == 1


def test_networks_are_asked_about_few_large_images_at_once():
    asked = []
    network = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5)).eval()
    network.register_forward_hook(lambda _module, given, _answer: asked.append(len(given[0])))
    images, labels = torch.randn(40, 3, 224, 224), torch.arange(40) % 5
    (said,) = predict({"network": network}, [(images, labels)])
    assert asked == [27, 13]
    answers = said.by_network["network"]
    assert torch.equal(answers.answer, network(images).argmax(dim=1))
    expected = difficulty_of(network, images, labels)
    assert torch.allclose(answers.difficulty, expected, atol=1e-5)
