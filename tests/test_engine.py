import shutil
from functools import partial

import pytest
import torch
from conftest import refused
from loop_runs import synthesis_losses
from torch import nn

from hast.engine.engine import (
    Engine,
    bf16_is_fast,
    choose_engine,
    hold_images,
    place,
    place_images,
    select_device,
)
from hast.engine.runtime import loop
from hast.errors import HastWarning
from hast.networks.batch_norm import freeze

CPU = torch.device("cpu")


@pytest.mark.skipif(not shutil.which("g++"), reason="compilation on the CPU needs g++")
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_ten_compiled_steps_agree_to_rounding(spec):
    torch.manual_seed(0)
    parts = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    teacher = freeze(nn.Sequential(*parts))
    plain = synthesis_losses(teacher, spec, Engine())
    assert synthesis_losses(teacher, spec, Engine(compile=True)) == pytest.approx(plain, rel=1e-4)


def test_ten_bf16_steps_stay_close(teacher, spec):
    plain = synthesis_losses(teacher, spec, Engine())
    bf16 = synthesis_losses(teacher, spec, Engine(bf16=True))
    assert bf16 != plain
    assert bf16 == pytest.approx(plain, rel=0.05)


@pytest.mark.skipif(not shutil.which("g++"), reason="compilation on the CPU needs g++")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_long_loops_sum_tensors_of_two_memory_formats_rightly(precision):
    # Of bf16, by the compiler's 512-bit vectors without AMX, this is NaN.
    engine = choose_engine(CPU, work=1e15, precision=precision)
    x, y = torch.randn(2, 64, 64, 8, 8, dtype=torch.bfloat16 if engine.bf16 else None).unbind()
    y = y.contiguous(memory_format=torch.channels_last)

    def channel_sums(x, y):
        return (x.float() * y.float() + x.float().relu()).sum((0, 2, 3))

    torch.testing.assert_close(
        engine.wrap(channel_sums, CPU)(x, y), channel_sums(x, y), rtol=1e-4, atol=1e-2
    )


class Breaks(torch.autograd.Function):
    """Compiled code whose backward pass fails."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError("no backward code")


@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_failing_compiler_costs_a_warning_in_any_pass(teacher, spec, monkeypatch, at, where):
    """As of another shape, or of a backward pass, which are compiled when they first run."""

    def breaks_later(function, **_):
        calls = []

        def compiled(*args):
            calls.append(args)
            if len(calls) < at:
                return function(*args)
            if where == "forward":
                raise RuntimeError("no code for this shape\nand a long story")
            loss, *rest = function(*args)
            return Breaks.apply(loss), *rest

        return compiled

    plain = synthesis_losses(teacher, spec, Engine())
    monkeypatch.setattr("torch.compile", breaks_later)
    with pytest.warns(HastWarning, match="running without compilation: no") as caught:
        assert synthesis_losses(teacher, spec, Engine(compile=True)) == plain
    (said,) = [str(warning.message) for warning in caught]  # once, in one line
    assert "\n" not in said


@pytest.mark.skipif(not shutil.which("g++"), reason="compilation on the CPU needs g++")
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_compiled_code_calls_torch_for_the_gradient_of_max_pooling(tmp_path, monkeypatch):
    # Else code that was compiled without it may serve.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    pool = nn.MaxPool2d(3, 2, 1)
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=torch.channels_last)

    @loop  # deterministic: else the compiler scatters
    def gradients(engine):
        inputs = x.clone().requires_grad_()
        run = engine.wrap(lambda x: pool(x).square().sum(), CPU)
        run.step(lambda: run(inputs).backward())
        yield inputs.grad.clone()
        with torch.profiler.profile() as profile:
            run(inputs).backward()
        yield {event.key for event in profile.key_averages()}

    (plain, _), (compiled, called) = (gradients(Engine(compile=c)) for c in (False, True))
    torch.testing.assert_close(compiled, plain)
    assert "aten::max_pool2d_with_indices_backward" in called


def test_an_error_of_the_step_itself_is_no_fault_of_the_compiler(monkeypatch):
    def fails_second_time(x):
        if x > 1:
            raise ZeroDivisionError
        return x

    monkeypatch.setattr("torch.compile", lambda function, **_: function)
    run = Engine(compile=True).wrap(fails_second_time, CPU)
    assert run.step(run, 1) == 1
    with pytest.raises(ZeroDivisionError):
        run.step(run, 2)


def test_a_long_lived_process_compiles_its_twentieth_network_as_its_first(monkeypatch):
    monkeypatch.setattr("torch.compile", partial(torch.compile, backend="eager"))  # reads the code
    compiled = []
    for shift in range(20):
        run = Engine(compile=True).wrap(
            lambda x, shift=shift: (compiled.append(torch.compiler.is_compiling()), x + shift)[1],
            CPU,
        )
        assert run(torch.ones(2)).tolist() == [1 + shift] * 2
    assert compiled == [True] * 20


def test_small_work_runs_plainly_and_options_win(monkeypatch):
    monkeypatch.setattr("hast.engine.engine.bf16_is_fast", lambda _: True)
    assert choose_engine(CPU, work=1e9) == Engine(bf16=False, compile=False)
    assert choose_engine(CPU, work=1e15) == Engine(bf16=True, compile=True)
    assert choose_engine(CPU, work=1e15, precision="fp32") == Engine(bf16=False, compile=True)
    assert choose_engine(CPU, work=1e15, compile="off") == Engine(bf16=True, compile=False)
    assert choose_engine(CPU, work=1, precision="bf16", compile="on") == Engine(True, True)
    monkeypatch.setattr("hast.engine.engine.bf16_is_fast", lambda _: False)
    assert choose_engine(CPU, work=1e15) == Engine(bf16=False, compile=True)
    assert choose_engine(CPU, work=1e15, precision="bf16") == Engine(bf16=True, compile=True)


@pytest.mark.parametrize(
    ("units", "fast"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, True),
        ({"cpu_name": "AMD EPYC", "avx2": True}, False),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True, "amx_bf16": True}, True),
        ({"cpu_name": "Intel(R) Xeon(R)", "avx512_bf16": True}, False),
        ({"avx512_bf16": True}, False),  # torch before it told names
        ({}, False),  # Arm
    ],
)
def test_bf16_is_chosen_by_what_the_processor_is(monkeypatch, units, fast):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: units)
    assert bf16_is_fast(CPU) is fast


@pytest.mark.parametrize("name", ["gpu", "cuda:99", ""])
def test_a_device_that_is_not_there_is_refused_in_one_line(name):
    with refused(r"cannot be used .*try cpu"):
        select_device(name)


def test_networks_and_images_are_laid_out_channels_last_and_held_without_a_copy(teacher):
    images = torch.zeros(2, 3, 4, 5)
    for placed in (place(teacher, CPU).stem[0].weight, place_images(images, CPU)):
        assert placed.is_contiguous(memory_format=torch.channels_last)
    assert hold_images(images, CPU) is images
