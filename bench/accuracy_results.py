"""What `bench.accuracy` has measured: kept in a file, shown as a table, drawn.

    python -m bench.accuracy_results bench/out/accuracy.json --picture accuracy.png

prints the table in Markdown. Files of several runs become one table.
"""

import base64
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import numpy
import torch
import typer
from torch import Tensor

from bench.experiment import mean_and_spread
from bench.machine import describe
from hast.engine.engine import Engine
from hast.engine.machine import device_name
from hast.files.tables import read_json, write_json
from hast.math.intervals import mean_margin
from hast.report.figures.canvas import PALETTE, canvas, to_png
from hast.report.tables import markdown_rows

_COLUMNS = ("before", "all", "first_half", "second_half")


class Row(NamedTuple):
    """One student; top-1 in percent."""

    variant: str
    bits: str
    seed: int
    before: float | None  # calibrated only, all test images; None where it was not measured
    all: float
    first_half: float
    second_half: float
    right: str = ""  # see `packed`; empty in old rows


def packed(right: Tensor) -> str:
    """Which images are answered rightly, (N,) bool, as text."""
    return f"{len(right)}:{base64.b64encode(numpy.packbits(right.numpy()).tobytes()).decode()}"


def unpacked(text: str) -> Tensor:
    """What `packed` was given."""
    count, _, bits = text.partition(":")
    codes = numpy.frombuffer(base64.b64decode(bits), numpy.uint8)
    return torch.from_numpy(numpy.unpackbits(codes, count=int(count))).bool()


class Results:
    """The rows of one file: one teacher on one device, and each variant with one meaning."""

    def __init__(self, path: Path, values: dict[str, Any]) -> None:
        self._path, self._values = path, values
        self.rows = [Row(**row) for row in values["rows"]]

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(path, read_json(path))

    @classmethod
    def open(cls, path: Path, teacher: str, device: torch.device, engine: Engine) -> Self:
        """Those of the file, or none yet; `teacher` is its fingerprint."""
        conditions = {"teacher": teacher, "device": device_name(device)} | engine._asdict()
        if not path.exists():
            empty = {"conditions": conditions, "machine": describe(device), "teacher": {}}
            return cls(path, empty | {"settings": {}, "rows": []})
        results = cls.read(path)
        results._agree("all rows", results._values["conditions"], conditions)
        return results

    def define(self, variant: str, settings: Mapping[str, Any]) -> None:
        """Say what the rows of `variant` mean; refuses where the file says otherwise."""
        known = self._values["settings"].setdefault(variant, settings)
        self._agree(variant, known, settings)

    def _agree(self, what: str, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
        if found != asked:
            raise SystemExit(
                f"{self._path}: {what} measured with {found}, not {asked}; name another --out"
            )

    @property
    def teacher(self) -> dict[str, float]:
        values: dict[str, float] = self._values["teacher"]
        return values

    def set_teacher(self, top1: dict[str, float]) -> None:
        self._values["teacher"] = top1
        self.write()

    def has(self, variant: str, bits: str, seed: int) -> bool:
        return any(row[:3] == (variant, bits, seed) for row in self.rows)

    def include(self, other: Self) -> None:
        """Add what only `other` has measured; refuses what is not comparable."""
        self._agree("all rows", self._values["conditions"], other._values["conditions"])
        for variant, settings in other._values["settings"].items():
            self.define(variant, settings)
        self.rows += [row for row in other.rows if not self.has(*row[:3])]

    def add(self, row: Row) -> None:
        self.rows.append(row)
        self.write()
        print(row._replace(right=""), flush=True)  # a kilobyte that nobody reads

    def look(self, student: str, step: int, top1: float) -> None:
        """Note an accuracy on the way of a student, named by variant, width and seed."""
        self._values.setdefault("curves", {}).setdefault(student, {})[str(step)] = top1
        self.write()

    def groups(self) -> dict[tuple[str, str], list[Row]]:
        """The seeds of each variant and width, widest first, then by name."""
        groups: dict[tuple[str, str], list[Row]] = {}
        by_name = sorted(self.rows, key=lambda row: row.variant)
        for row in sorted(by_name, key=lambda row: row.bits, reverse=True):
            groups.setdefault((row.variant, row.bits), []).append(row)
        return groups

    def table(self, against: str = "") -> list[str]:
        """Lines of a Markdown table: mean ± standard deviation over the seeds, and where `against`
        is a variant, what is gained on it."""
        head = ["", "width", "seeds", "before", "all test images", "first half", "second half"]
        lines = [head + [f"gains on {against}"] * bool(against)]
        for (variant, bits), rows in self.groups().items():
            cells = [mean_and_spread([getattr(row, name) for row in rows]) for name in _COLUMNS]
            gain = [self._gain(rows, against)] * bool(against)
            lines.append([variant, bits.upper(), str(len(rows)), *cells, *gain])
        return markdown_rows(lines, left=2).replace("|  |", "| |").splitlines()

    def _gain(self, rows: list[Row], variant: str) -> str:
        """On another variant of the same seeds, on the same images, with its 95 % interval over the
        images."""
        others = {(row.bits, row.seed): row.right for row in self.rows if row.variant == variant}
        pairs = [(row.right, others.get((row.bits, row.seed), "")) for row in rows]
        if not all(map(all, pairs)):
            return "–"
        gains = [unpacked(ours).float() - unpacked(theirs).float() for ours, theirs in pairs]
        by_image = (100 * torch.stack(gains).mean(dim=0)).tolist()
        return f"{statistics.mean(by_image):.2f} ± {mean_margin(by_image):.2f}"

    def show(self, against: str = "") -> None:
        print(f"Teacher: {self.teacher['all']:.2f}", "", *self.table(against), sep="\n")

    def draw(self, path: Path) -> None:
        """Top-1 on all test images: a dot for each seed, a line for the mean; dotted: teacher."""
        groups = self.groups()
        variants = sorted({row.variant for row in self.rows}, reverse=True)  # first on top
        widths = list(dict.fromkeys(bits for _, bits in groups))
        size = {"width": 1.6 + 2.2 * len(widths), "height": 1.0 + 0.3 * len(variants)}
        with canvas(1, len(widths), **size) as (figure, panels):
            for axes, bits in zip(panels, widths, strict=True):
                for place, variant in enumerate(variants):
                    top1 = [row.all for row in groups.get((variant, bits), [])]
                    axes.plot(top1, [place] * len(top1), "o", alpha=0.6, color=PALETTE[0])
                    if top1:
                        mean = statistics.mean(top1)
                        axes.vlines(mean, place - 0.3, place + 0.3, color=PALETTE[1])
                axes.axvline(self.teacher["all"], color="gray", linestyle=":")
                axes.set(title=bits.upper(), xlabel="top-1, %", ylim=(-0.5, len(variants) - 0.5))
                axes.set_yticks(range(len(variants)), labels=variants if axes is panels[0] else [])
                axes.grid(axis="x")
        path.write_bytes(to_png(figure))

    def write(self) -> None:
        write_json(self._path, self._values | {"rows": [row._asdict() for row in self.rows]})


def main(
    files: Annotated[list[Path], typer.Argument(help="Of the same teacher and device.")],
    picture: Annotated[Path | None, typer.Option(help="PNG to draw.")] = None,
    against: Annotated[str, typer.Option(help="Variant to compare the others with.")] = "",
) -> None:
    results = Results.read(files[0])
    for path in files[1:]:
        results.include(Results.read(path))
    results.show(against)
    if picture:
        results.draw(picture)


if __name__ == "__main__":
    typer.run(main)
