import copy
from contextlib import contextmanager

import pytest
import torch
from conftest import refused
from loop_runs import assert_a_snapshot_goes_on
from students import is_same, observed, prepared

from hast.config.finetune import FinetuneConfig
from hast.config.recipes import method_settings
from hast.errors import HastWarning, NonFiniteLossError
from hast.loops.finetune import finetune, start_finetuning
from hast.math.distillation import alignment_loss, attention_vector, distillation_loss
from hast.networks.blocks import find_blocks
from hast.pipeline.finetune import finetune_student

CONFIG = FinetuneConfig(
    steps=4, batch_size=8, learning_rate=1e-5, milestones=(2,), min_crop_scale=1.0, flip=False
)
IMAGES = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def student(teacher, spec):
    return observed(teacher, spec, IMAGES)


def run(student, teacher, spec, **changes):
    config = CONFIG.model_copy(update=changes)
    blocks = find_blocks(teacher, spec)
    return [*finetune(student, teacher, IMAGES, torch.ones(len(IMAGES)), blocks, config)]


@contextmanager
def changes_of(network):
    """By how much each parameter moves, at most; filled in at the end."""
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    changes: dict[str, float] = {}
    yield changes
    changes |= {n: (p - before[n]).abs().max().item() for n, p in network.named_parameters()}


def test_one_step_is_the_written_out_method(student, teacher, spec, monkeypatch):
    """Two separate backward passes, plain SGD, against the loop's single one."""
    monkeypatch.setattr("hast.loops.finetune.random_resized_crop", lambda x, **_: x.clone())
    config = CONFIG.model_copy(update={"steps": 1, "batch_size": 24, "weight_decay": 0.0})
    reference = copy.deepcopy(student)
    order = next(start_finetuning(reference, torch.ones(24), config).order)
    x = IMAGES[order].requires_grad_(True)

    def loss_of(x):
        features = {}
        handles = [
            net.stages[i].body.register_forward_hook(
                lambda _m, _a, out, key=(name, i): features.__setitem__(key, attention_vector(out))
            )
            for name, net in (("q", reference), ("f", teacher))
            for i in range(2)
        ]
        kd = distillation_loss(reference(x), teacher(x), temperature=config.temperature)
        fa = alignment_loss(*([features[name, i] for i in range(2)] for name in "qf"))
        for handle in handles:
            handle.remove()
        return config.distillation_weight * kd + config.alignment_weight * fa

    (gradient,) = torch.autograd.grad(loss_of(x), x)
    harder = (x + config.promotion_step * gradient.sign()).detach()
    total = loss_of(x.detach()) + loss_of(harder)
    total.backward()

    blocks = find_blocks(teacher, spec)
    before = {n: p.detach().clone() for n, p in student.named_parameters()}
    (step,) = finetune(student, teacher, IMAGES, torch.ones(24), blocks, config)
    assert step.loss.item() == pytest.approx(total.item(), rel=1e-5)
    # The first Nesterov step is (1 + momentum) * lr * gradient.
    rate = config.learning_rate * (1 + config.momentum)
    for name, parameter in reference.named_parameters():
        moved = dict(student.named_parameters())[name]
        assert torch.allclose(moved, before[name] - rate * parameter.grad, atol=1e-7), name


def test_the_teacher_takes_no_gradient_and_the_ranges_and_statistics_stay(student, teacher, spec):
    before = copy.deepcopy(student.state_dict())
    run(student, teacher, spec)
    assert all(p.grad is None for p in teacher.parameters())
    changed = {k for k, v in student.state_dict().items() if not torch.equal(v, before[k])}
    assert any("original" in k for k in changed)
    assert not any("running" in k or "minimum" in k or "maximum" in k for k in changed)


def test_learned_scales_are_trained_without_decay(teacher, spec):
    student = observed(teacher, spec, IMAGES, quantizer="learned")
    options = {"optimizer": "adamw", "schedule": "cosine", "learning_rate": 1e-2}
    with changes_of(student) as changes:
        steps = run(student, teacher, spec, **options, weight_decay=5.0)
    scales = [change for name, change in changes.items() if name.endswith("log_scale")]
    assert all(0 < change <= 0.03 for change in scales)  # decay would add ten times that
    assert [s.learning_rate for s in steps] == pytest.approx(
        [1e-2, 8.54e-3, 5e-3, 1.46e-3], rel=1e-2
    )


def test_a_cosine_is_warmed_up(student, teacher, spec):
    options = {"schedule": "cosine", "learning_rate": 1e-4, "steps": 40}
    rates = [step.learning_rate for step in run(student, teacher, spec, **options)]
    assert rates[:3] == pytest.approx([5e-5, 1e-4, 1e-4], rel=1e-2)
    assert rates[1:] == sorted(rates[1:], reverse=True)
    assert rates[-1] < 1e-6


@pytest.mark.parametrize("schedule", ["milestones", "cosine"])
def test_without_steps_nothing_is_done(student, teacher, spec, schedule):
    before = copy.deepcopy(student.state_dict())
    held_run(student, teacher, spec, steps=0, schedule=schedule)
    assert is_same(student.state_dict(), before)


def test_learned_scales_may_move_faster_than_weights(teacher, spec):
    moved = []
    for factor in (1.0, 10.0):
        student = observed(teacher, spec, IMAGES, quantizer="learned")
        options = {"optimizer": "adamw", "learning_rate": 1e-4, "weight_decay": 0.0}
        with changes_of(student) as changes:
            run(student, teacher, spec, steps=1, scale_rate_factor=factor, **options)
        moved.append(changes)
    slow, fast = moved
    for name in slow:  # the first step of Adam is as long as the rate
        times = 10 if name.endswith("log_scale") else 1
        assert fast[name] == pytest.approx(times * slow[name], rel=1e-2, abs=1e-7), name


def test_zero_switches_promotion_and_alignment_off(student, teacher, spec):
    step = run(student, teacher, spec, promotion_step=0.0, alignment_weight=0.0)[0]
    assert step.promoted.item() == 0
    assert step.alignment.item() == 0
    assert step.loss.item() == pytest.approx(step.distillation.item())


def test_promoted_images_are_harder(student, teacher, spec):
    step = run(student, teacher, spec, promotion_step=0.05)[0]
    assert step.promoted > step.distillation + step.alignment


def test_one_seed_makes_one_student_and_the_rate_drops_at_the_milestones(student, teacher, spec):
    twin = copy.deepcopy(student)
    rates = [s.learning_rate for s in run(student, teacher, spec)]
    assert rates == pytest.approx([1e-5, 1e-5, 1e-6, 1e-6])
    torch.manual_seed(99)
    run(twin, teacher, spec)
    assert is_same(student.state_dict(), twin.state_dict())


def test_sampling_by_difficulty_prefers_hard_samples(student):
    config = CONFIG.model_copy(update={"sampling": "difficulty"})
    difficulty = torch.cat([torch.full((50,), 0.01), torch.full((50,), 0.9)])
    batches = start_finetuning(student, difficulty, config).order
    drawn = torch.cat([next(batches) for _ in range(50)])
    assert (drawn >= 50).float().mean() > 0.95


def test_uniform_sampling_sees_every_sample_once_in_an_epoch(student):
    batches = start_finetuning(student, torch.ones(24), CONFIG).order
    assert sorted(torch.cat([next(batches) for _ in range(3)]).tolist()) == list(range(24))


def test_a_bank_smaller_than_the_batch_still_trains(student, teacher, spec):
    assert len(run(student, teacher, spec, batch_size=1000)) == 4


def test_nan_stops_with_step_and_cause(student, teacher, spec):
    with pytest.raises(NonFiniteLossError, match=r"not finite by step .* learning_rate too high"):
        run(student, teacher, spec, learning_rate=1e9, steps=11)


def test_learned_scales_are_refused_with_an_optimizer_that_is_not_made_for_them(teacher, spec):
    student = prepared(teacher, spec, quantizer="learned")
    with refused("learned scales need optimizer 'adamw', got 'sgd'"):
        start_finetuning(student, torch.ones(4), CONFIG)


GOLDEN = [4.1308, 3.0766, 3.0749, 3.2543, 3.5847, 3.2637, 3.5864, 3.3427, 3.1083, 3.5744]


GOLDEN_OF_BEST = [7.1089, 6.4144, 6.8251, 7.3125, 5.2114, 5.702, 5.1375, 5.064, 5.8406, 4.978]


def test_ten_golden_losses(teacher, spec):
    student = observed(teacher, spec, IMAGES, image_bits="width")
    steps = run(student, teacher, spec, steps=10)
    assert [s.loss.item() for s in steps] == pytest.approx(GOLDEN, rel=5e-3)


def test_ten_golden_losses_of_recipe_best(teacher, spec):
    settings = method_settings("best")
    student = observed(teacher, spec, IMAGES, "w3a3", placement="relu", **settings["layers"])
    steps = run(student, teacher, spec, steps=10, **settings["quantize"])
    assert [s.loss.item() for s in steps] == pytest.approx(GOLDEN_OF_BEST, rel=2e-2)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "adamw", "schedule": "cosine", "learning_rate": 1e-3, "steps": 120},
        {"sampling": "difficulty", "flip": True, "min_crop_scale": 0.5},
    ],
)
def test_a_restored_snapshot_goes_on_to_the_same_student(student, teacher, spec, changes):
    # It is taken after the fourth step, in the middle of an epoch of three batches.
    config = CONFIG.model_copy(update={"steps": 7, "milestones": (2, 5), **changes})
    again = assert_a_snapshot_goes_on(student, teacher, spec, IMAGES, config)
    assert is_same(again.state_dict(), student.state_dict())


def held_run(student, teacher, spec, **changes):
    config = CONFIG.model_copy(update={"steps": 20, "batch_size": 16, "held_back": 0.5} | changes)
    images = 3 * torch.randn(96, 1, 8, 8, generator=torch.Generator().manual_seed(6))
    finetune_student(student, teacher, spec, images, config, show=False)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_training_that_makes_it_worse_is_said_and_in_best_undone(teacher, spec, keep):
    student = observed(teacher, spec, IMAGES, "w8a8", quantizer="learned")
    before = copy.deepcopy(student.state_dict())
    ruinous = {"optimizer": "adamw", "schedule": "cosine", "learning_rate": 1.0, "keep": keep}
    with pytest.warns(HastWarning, match=r"agreement on held-back samples, from \d+\.\d% before"):
        held_run(student, teacher, spec, **ruinous)
    assert is_same(student.state_dict(), before) == (keep == "best")


def test_training_that_does_no_harm_ends_with_the_last_step(student, teacher, spec):
    before = copy.deepcopy(student.state_dict())
    held_run(student, teacher, spec, keep="best")
    assert not is_same(student.state_dict(), before)


def test_what_is_held_back_is_never_trained_on(student, teacher, spec):
    """NaN in the last samples would reach the loss."""
    config = CONFIG.model_copy(update={"held_back": 0.25})
    images = IMAGES.clone()
    images[config.trained_on(len(images)) :] = torch.nan
    finetune_student(student, teacher, spec, images, config, show=False)
    assert all(v.isfinite().all() for v in student.parameters())
