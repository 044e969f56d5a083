"""The smallest student that keeps what is asked for: each candidate is made and measured.

Few candidates can be afforded, for each costs a calibration and what follows it. What is lost grows
as bits go, so the last width that holds is found by halving a ladder of widths instead of walking
down it: first of weights, which decide the bytes, with activations at 8 bits; then of activations,
which decide the speed, with the weights found.

Between the last width that holds and the first that fails, layers are told apart. The student that
failed says what each of its layers adds to the error by itself (loops/layer_errors.py); those that
add the least, for the bytes that they save, take the lower width. How many of them do is halved
again, in quarters.

Source: halving instead of a walk, and layers ordered by their own error as in Wang et al., 2019,
HAQ (arXiv:1811.08886) by size; the order of weights before activations is ours.
"""

from collections.abc import Callable, Iterator, Sequence
from math import isnan
from operator import attrgetter
from typing import Literal, NamedTuple, get_args

from torch import nn

from hast.config.bit_width import BitWidth
from hast.config.layers import Override
from hast.engine.engine import Images
from hast.loops.layer_errors import measure_layer_errors
from hast.networks.plan import weight_of
from hast.networks.provenance import spec_and_plan

WIDTHS = (8, 6, 5, 4, 3, 2)
_QUARTERS = (0.25, 0.5, 0.75)  # of the layers, at the lower of two widths
_COMPARED = 64  # images that say what a layer adds to the error

Kind = Literal["weight_bits", "act_bits"]


class Candidate(NamedTuple):
    bits: BitWidth
    overrides: tuple[Override, ...] = ()  # of layers with fewer bits

    def __str__(self) -> str:
        return f"{self.bits}" + (f", {len(self.overrides)} narrower" if self.overrides else "")


class Trial(NamedTuple):
    """What became of a candidate."""

    candidate: Candidate
    student: nn.Module
    size_bytes: int
    drop: float  # share that is lost, measured
    margin: float  # half of its 95 % interval
    holds: bool


def search(
    attempt: Callable[[Candidate], Trial], teacher: nn.Module, images: Images, *, attempts: int
) -> Iterator[Trial]:
    """Try candidates until the smallest that holds is known, or there have been enough.

    Args:
        attempt: makes a student and measures it.
        teacher: frozen, eval mode, of these students.
        images: (N, C, H, W), normalized pixels, on which layers are compared.
        attempts: candidates at most.

    Yields:
        Each trial. The last one that holds is the result; there is none where no candidate holds.
    """
    left = attempts
    best: Trial | None = None
    failed: Trial | None = None  # the last one, which is the nearest to those that hold

    def halve(ladder: Sequence[Candidate]) -> Iterator[Trial]:
        """Try rungs until the last that holds and the first that fails are neighbours."""
        nonlocal left, best, failed
        low, high = -1, len(ladder)
        while high - low > 1 and left:
            left -= 1
            middle = (low + high) // 2
            trial = attempt(ladder[middle])
            if trial.holds:
                low, best = middle, trial
            else:
                high, failed = middle, trial
            yield trial

    for kind in get_args(Kind):
        held = Candidate(BitWidth(8, 8)) if best is None else best.candidate
        widths = WIDTHS if best is None else WIDTHS[1:]
        ladder = [held._replace(bits=held.bits._replace(**{kind: bits})) for bits in widths]
        failed = None
        yield from halve(ladder)
        if best is None:
            return
        if failed is not None:
            order = easiest_layers(teacher, best.student, failed.student, kind, images)
            yield from halve(_between(best.candidate, failed.candidate, kind, order))


def _between(
    held: Candidate, failed: Candidate, kind: Kind, order: Sequence[str]
) -> list[Candidate]:
    """Candidates in which the first layers of `order` have the bits that failed for all."""
    fewer = getattr(failed.bits, kind)
    narrow = [Override.model_validate({"match": name, kind: fewer}) for name in order]
    counts = dict.fromkeys(round(share * len(order)) for share in _QUARTERS)
    return [Candidate(held.bits, (*held.overrides, *narrow[:n])) for n in counts if n]


def easiest_layers(
    teacher: nn.Module, held: nn.Module, failed: nn.Module, kind: Kind, images: Images
) -> list[str]:
    """Layers that have fewer bits in `failed` than in `held`, in the order in which to take them
    over: what each adds to the error there, for each weight that gets narrower.

    Args:
        teacher: frozen, eval mode.
        held, failed: its students.
        kind: of which bits.
        images: see `search`.
    """
    bits_of = attrgetter("weights" if kind == "weight_bits" else "activations")
    wide, narrow = (bits_of(spec_and_plan(student)[1]) for student in (held, failed))
    errors = measure_layer_errors(teacher, failed, images[:_COMPARED])
    # NaN: there is no error at all, or no signal.
    noise = {e.layer: 10 ** (-e.output_sqnr / 10) for e in errors if not isnan(e.output_sqnr)}
    names = [name for name in narrow if narrow[name] < wide.get(name, 0)]

    def harm(name: str) -> float:
        narrowed = weight_of(teacher, name).numel() if kind == "weight_bits" else 1
        return noise.get(name, 0.0) / narrowed

    return sorted(names, key=harm)
