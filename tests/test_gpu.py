"""What only a CUDA device can show: `pytest -m gpu`."""

import copy

import pytest
import torch
from loop_runs import assert_a_snapshot_goes_on, synthesis_losses
from students import observed
from torch import nn

from hast.config.bit_width import BitWidth
from hast.config.calibrate import CalibrationConfig
from hast.config.finetune import FinetuneConfig
from hast.config.layers import PlanConfig
from hast.config.reconstruct import ReconstructionConfig
from hast.engine.engine import Engine, choose_engine, hold_images, place
from hast.loops.evaluate import predict
from hast.loops.finetune import finetune
from hast.networks.blocks import find_blocks
from hast.pipeline.calibrate import calibrate_student
from hast.pipeline.reconstruct import reconstruct_student

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # of the compiler
]
CUDA = torch.device("cuda")


def calibrated_there(teacher: nn.Module, spec) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Teacher and student on the device, and the images that set the student's ranges."""
    teacher = place(teacher, CUDA)
    images = torch.randn(16, *spec.input_shape)
    return teacher, observed(teacher, spec, images.to(CUDA)), images


@pytest.mark.parametrize("engine", [Engine(), Engine(compile=True)])
def test_ten_steps_agree_with_the_cpu(teacher, spec, engine):
    on_cpu = synthesis_losses(teacher, spec, Engine())
    on_gpu = synthesis_losses(place(copy.deepcopy(teacher), CUDA), spec, engine)
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3)


def test_long_loops_run_compiled_in_bf16():
    assert choose_engine(CUDA, work=1e15) == Engine(bf16=True, compile=True)


def test_a_bank_that_fits_is_held_on_the_device():
    assert hold_images(torch.zeros(4, 3, 8, 8), CUDA).is_cuda


def test_a_student_is_calibrated_and_reconstructed_there(teacher, spec):
    teacher = place(teacher, CUDA)
    images = torch.randn(16, *spec.input_shape)
    student = calibrate_student(
        teacher, spec, BitWidth(4, 4), PlanConfig(placement="inputs", quantizer="learned"),
        CalibrationConfig(images="bank", batches=2, batch_size=8), images=images, show=False,
    ).network  # fmt: skip
    config = ReconstructionConfig(steps=3, samples=16, batch_size=8, bias_rate=1e-2)
    reconstruct_student(student, teacher, images, config, show=False)
    assert all(value.is_cuda for value in student.state_dict().values())
    assert student(images.to(CUDA)).isfinite().all()


def test_a_student_trains_there(teacher, spec):
    teacher, student, images = calibrated_there(teacher, spec)
    config = FinetuneConfig(steps=5, batch_size=8)
    blocks = find_blocks(teacher, spec)
    engine = Engine(bf16=True, compile=True)
    for step in finetune(student, teacher, images, torch.ones(16), blocks, config, engine):
        assert torch.isfinite(step.loss)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_restored_snapshot_goes_on_there(teacher, spec, optimizer):
    teacher, student, images = calibrated_there(teacher, spec)
    config = FinetuneConfig(steps=7, batch_size=8, optimizer=optimizer, milestones=(5,))
    assert_a_snapshot_goes_on(student, teacher, spec, images, config)


def test_fp32_loops_do_not_round_to_tf32(teacher, spec):
    """Convolutions are TF32 there by default."""
    network = place(teacher, CUDA)
    images = torch.randn(64, *spec.input_shape)
    labels = torch.zeros(64, dtype=torch.int64)
    (on_gpu,) = predict({"teacher": network}, [(images, labels)])
    (on_cpu,) = predict({"teacher": copy.deepcopy(network).cpu()}, [(images, labels)])
    difference = on_gpu.by_network["teacher"].difficulty - on_cpu.by_network["teacher"].difficulty
    assert difference.abs().max() < 1e-5
    assert torch.backends.cudnn.allow_tf32
