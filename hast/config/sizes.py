"""How many images and steps fit into a time: what `--minutes` writes, as plain numbers.

Work is counted in forward passes of one image through the network; a backward pass costs two. Half
of it may go to the student: to reconstruction where the recipe has it, up to the recipe's steps,
and what is left to fine-tuning, where it has that. The rest goes to the bank. Images and steps grow
together, for images of too few steps teach what the network is not, and a few perfect ones teach
little; their ratio is that of EfficientNet-Lite0's quick setting (docs/results.md).
"""

import math

from hast.config.recipes import Settings, merged

_STUDENT = 0.5
_IMAGES_A_STEP = 96 / 150
_BLOCK_STEP = 7  # for an image: quantizers move more memory than the products of a block
_PREFIX = 1.25  # half a pass of the student and three quarters of the teacher, for each block
_GENERATOR = 0.2  # of the bank's share
_RANGES = 0.1  # of the student's share, at most
_MOST = {  # the paper's; of images to reconstruct on, what memory holds with their blocks
    "samples": 5120, "steps": 1000, "finetuning": 29400, "generator": 800, "reconstruct": 1024,
}  # fmt: skip
_LEAST_FINETUNING = 50  # steps; fewer move a network and leave it there


def sizes_within(values: Settings, passes: float, *, units: int) -> Settings:
    """Complete parameters with other images and steps.

    Args:
        values: sections of a params file, which say what is done at all.
        passes: plain forward passes of one image for the bank and one student. Compiled code does
            more in the time, but not everywhere: see EfficientNet-Lite0, seed 2, docs/results.md.
        units: blocks that reconstruction goes through.
    """
    if values["bank"]["source"] is not None:  # made already
        return merged([values, _student_sizes(values, passes, units)[0]])
    bank = _bank_sizes(values, (1 - _STUDENT) * passes)
    student, left = _student_sizes(merged([values, bank]), _STUDENT * passes, units)
    bank = _bank_sizes(values, (1 - _STUDENT) * passes + left)
    return merged([values, student, bank])


def _bank_sizes(values: Settings, passes: float) -> Settings:
    sizes: Settings = {}
    if "generator" in (values["synthesize"]["init"], values["calibrate"]["images"]):
        batch = values["generator"]["batch_size"]
        steps = _within(_GENERATOR * passes / (3 * batch), 20, _MOST["generator"])
        sizes["generator"] = {"steps": steps}
        passes -= 3 * steps * batch
    samples = 16 * _within(math.sqrt(passes / 3 * _IMAGES_A_STEP) / 16, 2, _MOST["samples"] // 16)
    sizes["synthesize"] = {
        "samples": samples,
        "steps": _within(passes / 3 / samples, 20, _MOST["steps"]),
        "batch_size": min(samples, values["synthesize"]["batch_size"]),
    }
    if values["reconstruct"]["steps"]:
        sizes["reconstruct"] = {"samples": min(_MOST["reconstruct"], samples)}
    return sizes


def _student_sizes(values: Settings, passes: float, units: int) -> tuple[Settings, float]:
    """And the passes that are left."""
    ranges, blocks, training = (values[s] for s in ("calibrate", "reconstruct", "quantize"))
    batches = _within(_RANGES * passes / ranges["batch_size"], 4, ranges["batches"])
    passes -= batches * ranges["batch_size"]
    sizes: Settings = {"calibrate": {"batches": batches}}
    if blocks["steps"]:
        share = blocks["resize"] ** 2
        passes -= _PREFIX * share * units * blocks["samples"]
        step = _BLOCK_STEP * share * blocks["batch_size"]
        steps = _within(passes / step, 20, blocks["steps"])
        passes -= step * steps
        sizes["reconstruct"] = {"steps": steps}
    if training["steps"]:
        steps = _within(passes / (10 * training["batch_size"]), 0, _MOST["finetuning"])
        if steps < _LEAST_FINETUNING:
            steps = 0 if blocks["steps"] else _LEAST_FINETUNING
        milestones = sorted({steps // 2, steps * 3 // 4} - {0})
        sizes["quantize"] = {"steps": steps, "milestones": milestones}
        passes -= 10 * training["batch_size"] * steps
    return sizes, max(0.0, passes)


def _within(value: float, least: int, most: int) -> int:
    return max(least, min(most, int(value)))
