import copy
from unittest.mock import patch

import pytest
import torch
from conftest import refused
from students import is_same, observed
from torch import nn

from hast.config.reconstruct import ReconstructionConfig
from hast.loops.reconstruct import reconstruct
from hast.networks.codes import weight_codes
from hast.networks.hooks import removed_at_exit
from hast.networks.units import find_units
from hast.pipeline.reconstruct import reconstruct_student

CONFIG = ReconstructionConfig(steps=40, samples=48, batch_size=16)


@pytest.fixture
def images(spec):
    return torch.randn(64, *spec.input_shape)


def start(teacher, spec, images, bits="w3a3", **rules):
    return observed(teacher, spec, images, bits, **({"quantizer": "learned"} | rules))


@torch.no_grad()
def distance(student, teacher, images):
    return (student(images) - teacher(images)).square().mean().item()


def test_the_student_comes_nearer_to_the_teacher_on_other_images_too(teacher, spec, images):
    student = start(teacher, spec, images)
    others = torch.randn(64, *spec.input_shape)
    before = [distance(student, teacher, x) for x in (images, others)]
    reconstruct_student(student, teacher, images, CONFIG, show=False)
    after = [distance(student, teacher, x) for x in (images, others)]
    assert after[0] < 0.7 * before[0]
    assert after[1] < 0.9 * before[1]


def test_codes_move_by_one_at_most_and_weights_lie_well_within_their_code(teacher, spec, images):
    student = start(teacher, spec, images)
    before = weight_codes(student)
    weights = {name: student.get_submodule(name).parametrizations.weight.original.clone()
               for name in before}  # fmt: skip
    reconstruct_student(student, teacher, images, CONFIG, show=False)
    after = weight_codes(student)
    moved = torch.cat([(after[n].codes - before[n].codes).abs().flatten() for n in before])
    assert moved.max() == 1
    assert 0.01 < moved.mean() < 0.5
    for name, weight in weights.items():
        module = student.get_submodule(name)
        parametrization = module.parametrizations.weight
        stored = parametrization.original
        step = parametrization[0].qparams_of(stored).scale
        assert ((stored - module.weight).abs() <= 0.26 * step).all()  # a first step keeps the code
        assert ((stored - weight).abs() <= (module.weight - weight).abs() + 1e-6).all()
        moved = (stored - weight).abs().mean() / (module.weight - weight).abs().mean()
        assert moved < 0.7  # or fine-tuning would begin half a step from any other code


def test_one_unit_after_the_other_in_two_runs_is_the_same_to_the_bit(teacher, spec, images):
    student = start(teacher, spec, images)
    units = find_units(teacher, spec, weight_codes(student))
    whole, halves = copy.deepcopy(student), copy.deepcopy(student)
    list(reconstruct(whole, teacher, spec, units, images, CONFIG))
    list(reconstruct(halves, teacher, spec, units[:2], images, CONFIG))
    list(reconstruct(halves, teacher, spec, units, images, CONFIG, first=2))
    assert is_same(whole.state_dict(), halves.state_dict())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_inputs_of_blocks_that_memory_does_not_hold_lie_in_files_and_change_nothing(
    teacher, spec, images, layout, monkeypatch
):
    teacher.to(memory_format=layout)
    student = start(teacher, spec, images)
    mapped = copy.deepcopy(student)
    reconstruct_student(student, teacher, images, CONFIG, show=False)
    monkeypatch.setattr("hast.loops.reconstruct._MEMORY", 0)
    with patch("torch.from_file", wraps=torch.from_file) as opened:
        reconstruct_student(mapped, teacher, images, CONFIG, show=False)
    assert opened.call_count == 3 * len(find_units(teacher, spec, weight_codes(student)))
    assert is_same(student.state_dict(), mapped.state_dict())


def test_without_steps_nothing_is_done_and_minmax_scales_are_refused(teacher, spec, images):
    student = start(teacher, spec, images, quantizer="minmax")
    before = copy.deepcopy(student.state_dict())
    reconstruct_student(student, teacher, images, ReconstructionConfig(), show=False)
    assert is_same(student.state_dict(), before)
    with refused(r"needs layers\.quantizer 'learned', got 'minmax'"):
        reconstruct_student(student, teacher, images, CONFIG, show=False)


def test_a_mean_that_rounding_adds_is_taken_back_by_biases(teacher, spec, images):
    student, fixed = start(teacher, spec, images), start(teacher, spec, images)
    moving = CONFIG.model_copy(update={"bias_rate": 1e-2})
    reconstruct_student(student, teacher, images, moving, show=False)
    reconstruct_student(fixed, teacher, images, CONFIG, show=False)
    biases = {n: p for n, p in teacher.named_parameters() if n.endswith("bias")}
    assert all(torch.equal(dict(fixed.named_parameters())[n], p) for n, p in biases.items())
    moved = [n for n, p in student.named_parameters() if n in biases and (p != biases[n]).any()]
    assert moved
    others = torch.randn(64, *spec.input_shape)
    assert distance(student, teacher, others) < distance(fixed, teacher, others)


def test_images_are_made_smaller_for_networks_that_take_them(teacher, spec, images):
    config = CONFIG.model_copy(update={"resize": 0.5})
    seen = []
    with removed_at_exit([teacher.register_forward_pre_hook(lambda m, args: seen.append(args[0]))]):
        reconstruct_student(start(teacher, spec, images), teacher, images, config, show=False)
    assert [*seen[-1].shape[2:]] == [side // 2 for side in spec.input_shape[1:]]
    flat = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), spec.num_classes)).eval()
    student = start(flat, spec, images)
    with refused(r"Sequential takes images of 8x8 alone, got 0\.5; set"):
        reconstruct_student(student, flat, images, config, show=False)
