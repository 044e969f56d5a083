"""What only a CUDA device can show: `pytest -m gpu`."""

import copy

import pytest
import torch
from students import prepared
from torch import nn

from hast.config.bit_width import BitWidth
from hast.config.calibrate import CalibrationConfig
from hast.config.finetune import FinetuneConfig
from hast.config.layers import PlanConfig
from hast.config.reconstruct import ReconstructionConfig
from hast.config.synthesize import SynthesisConfig
from hast.engine.engine import Engine, choose_engine, hold_images, place
from hast.loops.calibrate import observe_ranges
from hast.loops.evaluate import predict
from hast.loops.finetune import finetune, start_finetuning
from hast.loops.synthesize import synthesize
from hast.networks.blocks import find_blocks
from hast.pipeline.calibrate import calibrate_student
from hast.pipeline.reconstruct import reconstruct_student

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore"),  # of the compiler
]
CONFIG = SynthesisConfig(samples=8, batch_size=8, steps=10, learning_rate=0.1)


def losses(teacher: nn.Module, spec, engine: Engine) -> list[float]:
    return [step.loss.item() for step in synthesize(teacher, None, spec, CONFIG, [0], engine)]


def calibrated_there(teacher: nn.Module, spec) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Teacher and student on the device, and the images that set the student's ranges."""
    teacher = place(teacher, torch.device("cuda"))
    images = torch.randn(16, *spec.input_shape)
    student = prepared(teacher, spec)
    list(observe_ranges(student, [images.to("cuda")]))
    return teacher, student, images


@pytest.mark.parametrize("engine", [Engine(), Engine(compile=True)])
def test_ten_steps_agree_with_the_cpu(teacher, spec, engine):
    on_cpu = losses(teacher, spec, Engine())
    on_gpu = losses(place(copy.deepcopy(teacher), torch.device("cuda")), spec, engine)
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3)


def test_long_loops_run_compiled_in_bf16():
    assert choose_engine(torch.device("cuda"), work=1e15) == Engine(bf16=True, compile=True)


def test_a_bank_that_fits_is_held_on_the_device():
    assert hold_images(torch.zeros(4, 3, 8, 8), torch.device("cuda")).is_cuda


def test_a_student_is_calibrated_and_reconstructed_there(teacher, spec):
    teacher = place(teacher, torch.device("cuda"))
    images = torch.randn(16, *spec.input_shape)
    student = calibrate_student(
        teacher, spec, BitWidth(4, 4), PlanConfig(placement="inputs", quantizer="learned"),
        CalibrationConfig(images="bank", batches=2, batch_size=8), images=images, show=False,
    ).network  # fmt: skip
    config = ReconstructionConfig(steps=3, samples=16, batch_size=8, bias_rate=1e-2)
    reconstruct_student(student, teacher, images, config, show=False)
    assert all(value.is_cuda for value in student.state_dict().values())
    assert student(images.to("cuda")).isfinite().all()


def test_a_student_trains_there(teacher, spec):
    teacher, student, images = calibrated_there(teacher, spec)
    config = FinetuneConfig(steps=5, batch_size=8)
    blocks = find_blocks(teacher, spec)
    steps = [
        *finetune(student, teacher, images, torch.ones(16), blocks, config, Engine(True, True))
    ]
    assert all(torch.isfinite(step.loss) for step in steps)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_restored_snapshot_goes_on_there(teacher, spec, optimizer):
    teacher, student, images = calibrated_there(teacher, spec)
    config = FinetuneConfig(steps=6, batch_size=8, optimizer=optimizer, milestones=(4,))
    fresh, blocks = copy.deepcopy(student), find_blocks(teacher, spec)

    def steps_of(network, state):
        return finetune(network, teacher, images, torch.ones(16), blocks, config, state=state)

    state, losses = start_finetuning(student, torch.ones(16), config), []
    for step in steps_of(student, state):
        losses.append(step.loss.item())
        if len(losses) == 3:
            taken = state.snapshot()
    again = start_finetuning(fresh, torch.ones(16), config)
    again.restore(*taken)
    assert [s.loss.item() for s in steps_of(fresh, again)] == losses[3:]


def test_fp32_loops_do_not_round_to_tf32(teacher, spec):
    """Convolutions are TF32 there by default."""
    network = place(teacher, torch.device("cuda"))
    images = torch.randn(64, *spec.input_shape)
    labels = torch.zeros(64, dtype=torch.int64)
    (on_gpu,) = predict({"teacher": network}, [(images, labels)])
    (on_cpu,) = predict({"teacher": copy.deepcopy(network).cpu()}, [(images, labels)])
    difference = on_gpu.by_network["teacher"].difficulty - on_cpu.by_network["teacher"].difficulty
    assert difference.abs().max() < 1e-5
    assert torch.backends.cudnn.allow_tf32
