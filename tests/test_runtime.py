"""What loops ask of the process and of the machine, and that they give it back."""

import platform

import pytest
import torch
from conftest import python

from hast.engine.engine import Engine
from hast.engine.runtime import loop

# Steps with a tensor of 64 MB, and the pages that the system had to clear for them.
STEPS = """
import resource, sys
import torch
from hast.config.spec import ModelSpec
from hast.engine.runtime import loop
from hast.networks.plan import forward_macs

def pages_of(steps):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in steps:
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

@loop
def warm():
    for _ in range(3):  # until there is room for the largest
        pages_of(range(5))
    yield pages_of(range(5))

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

[*loop(lambda: iter("a"))()]  # torch loads a part of itself
pages_of(range(5))
at_first, before, [kept] = resident(), pages_of(range(5)), warm()
print(before, kept, resident() - at_first)

spec = ModelSpec(input_shape=(1, 2, 2), num_classes=2, mean=(0.5,), std=(0.5,))
forward_macs(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)), spec)
# The compiler takes seconds to import.
assert not {"torch._dynamo", "torch._inductor"} & {*sys.modules}
"""


def settings():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
    )


@loop
def counting(records):
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.allow_tf32
    torch.export.export(torch.nn.Conv2d(1, 1, 1), (torch.zeros(1, 1, 2, 2),))  # reads the settings
    yield from records


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_memory_of_one_step_of_a_loop_serves_the_next_and_is_handed_back():
    before, kept, held = map(int, python("-c", STEPS).stdout.split())
    assert kept < before / 10
    assert held < 16 << 20


def test_a_loop_leaves_the_settings_of_the_process_as_they_were():
    before = settings()
    assert [*counting(range(3))] == [0, 1, 2]
    assert settings() == before
    abandoned = counting(range(3))
    next(abandoned)
    assert settings() != before
    abandoned.close()
    assert settings() == before
    with pytest.raises(ZeroDivisionError):
        [*counting(1 / n for n in (1, 0))]
    assert settings() == before


def test_what_a_loop_compiles_is_as_deterministic_as_the_loop():
    @loop
    def compiling():
        Engine(compile=True).wrap(torch.relu, torch.device("cpu"))
        yield torch._inductor.config.deterministic

    assert [*compiling()] == [True]
    assert not torch._inductor.config.deterministic


def test_loops_may_overlap_in_any_order():
    before = settings()
    first, second = counting(range(3)), counting(range(3))
    next(first)
    next(second)
    first.close()
    assert settings() != before
    second.close()
    assert settings() == before


def test_a_loop_that_the_end_of_the_process_finds_open_says_nothing():
    script = (
        "from hast.engine.runtime import loop\n"
        "steps = loop(lambda: iter(range(3)))()\n"
        "next(steps)\n"
        "class Keeper: pass\n"
        "keeper = Keeper(); keeper.steps, keeper.me = steps, keeper\n"  # a cycle outlives modules
        "del steps, keeper"
    )
    assert python("-c", script).stderr == ""
