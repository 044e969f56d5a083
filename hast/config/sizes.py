"""How many images and steps fit into a time: what `--minutes` writes, as plain numbers.

Work is counted in forward passes of one image through the network; a backward pass costs two. Half
of it goes to the bank. Images and steps grow together, for images of too few steps teach what the
network is not, and a few perfect ones teach little; their ratio is that of EfficientNet-Lite0's
quick setting (docs/results.md). The other half goes to the student: to reconstruction where the
recipe has it, up to the recipe's steps, and what is left to fine-tuning, where it has that.
"""

import math

from hast.config.recipes import Settings, merged

_IMAGES_A_STEP = 96 / 150
_PREFIX = 1.25  # half a pass of the student and three quarters of the teacher, for each block
_RANGES = 0.1  # of the student's half, at most
_MOST = {"samples": 5120, "steps": 1000, "finetuning": 29400, "generator": 800}  # the paper's
_LEAST_FINETUNING = 50  # steps; fewer move a network and leave it there


def sizes_within(values: Settings, passes: float, *, units: int) -> Settings:
    """Complete parameters with other images and steps.

    Args:
        values: sections of a params file, which say what is done at all.
        passes: forward passes of one image for the bank and one student.
        units: blocks that reconstruction goes through.
    """
    bank, student = passes / 2, passes / 2
    if _uses_generator(values):
        batch = values["generator"]["batch_size"]
        steps = _within(0.2 * bank / (3 * batch), 20, _MOST["generator"])
        values = merged([values, {"generator": {"steps": steps}}])
        bank -= 3 * steps * batch
    samples = 16 * _within(math.sqrt(bank / 3 * _IMAGES_A_STEP) / 16, 2, _MOST["samples"] // 16)
    steps = _within(bank / 3 / samples, 20, _MOST["steps"])
    pixels = {
        "samples": samples,
        "steps": steps,
        "batch_size": min(samples, values["synthesize"]["batch_size"]),
    }
    ranges = dict(values["calibrate"])
    batches = _within(_RANGES * student / ranges["batch_size"], 4, ranges["batches"])
    ranges["batches"] = batches
    student -= batches * ranges["batch_size"]
    blocks = dict(values["reconstruct"])
    if blocks["steps"]:
        blocks["samples"] = min(blocks["samples"], samples)
        student -= _PREFIX * units * blocks["samples"]
        blocks["steps"] = _within(student / (3 * blocks["batch_size"]), 20, blocks["steps"])
        student -= 3 * blocks["steps"] * blocks["batch_size"]
    training = dict(values["quantize"])
    if training["steps"]:
        batch = training["batch_size"]
        steps = _within(student / (10 * batch), 0, _MOST["finetuning"])
        if blocks["steps"] and steps < _LEAST_FINETUNING:
            steps = 0
        training["steps"] = max(steps, 0 if blocks["steps"] else _LEAST_FINETUNING)
        training["milestones"] = sorted({steps // 2, steps * 3 // 4} - {0})
    sizes = {
        "synthesize": pixels, "calibrate": ranges, "reconstruct": blocks, "quantize": training,
    }  # fmt: skip
    return merged([values, sizes])


def _uses_generator(values: Settings) -> bool:
    return "generator" in (values["synthesize"]["init"], values["calibrate"]["images"])


def _within(value: float, least: int, most: int) -> int:
    return max(least, min(most, int(value)))
