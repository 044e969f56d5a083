"""The pictures of docs/method.md, made by the code they explain.

python docs/figures.py        # in the project's root, after `make run`
"""

import io
import os
import shutil
from pathlib import Path

import torch
from PIL import Image

from hast.math.hardness import hard_sample_loss
from hast.math.quantization import choose_qparams, fake_quantize
from hast.report.figures.canvas import PALETTE, Figure, canvas, to_png
from hast.report.figures.samples import bank_grid, difficulty_histogram
from hast.report.figures.training import bns_gap
from hast.report.record import Run, read_run

IMAGES = Path(__file__).parent / "images"
PARAMS = Path("params.yaml")


def hard_weight() -> Figure:
    """(1 - p)^γ · CE of a two-class answer, by the probability of the label."""
    p = torch.linspace(0.02, 0.98, 97)
    logits = torch.stack([p.log(), (1 - p).log()], dim=1)
    label = torch.zeros(1, dtype=torch.int64)
    with canvas(width=5.0, height=2.8) as (figure, (ax,)):
        for colour, gamma in zip(PALETTE, (0.0, 0.5, 2.0), strict=False):
            losses = [hard_sample_loss(row[None], label, gamma=gamma).item() for row in logits]
            ax.plot(p.tolist(), losses, color=colour, label=f"γ = {gamma:g}")
        ax.set(xlabel="probability of the label p", ylabel="loss", ylim=(0, 3))
        ax.legend()
        ax.grid(axis="y")
    return figure


def rounding() -> Figure:
    """Values before and after quantization to a few bits."""
    x = torch.linspace(-1, 1, 801)
    with canvas(1, 3, width=7.5, height=2.5) as (figure, axes):
        for ax, bits in zip(axes, (4, 3, 2), strict=True):
            q = fake_quantize(x, choose_qparams(x.min(), x.max(), bits=bits))
            ax.plot(x.tolist(), x.tolist(), color=PALETTE[0], linewidth=0.8)
            ax.plot(x.tolist(), q.tolist(), color=PALETTE[1])
            ax.set(title=f"{bits} bits: {2**bits} values", xlabel="weight")
        axes[0].set_ylabel("quantized weight")
    return figure


def of_run(run: Run) -> dict[str, Figure]:
    """Pictures that need a finished run."""
    seen = run.widths[0].seen
    return {
        "samples": bank_grid(run.bank, classes=4),
        "bns": bns_gap(run.gaps),
        "difficulty": difficulty_histogram(
            {
                "bank, teacher": run.bank.difficulty,
                **{f"bank, {w.name.upper()} student": w.difficulty for w in run.widths},
                "test images, teacher": seen.difficulty,
            }
        ),
    }


def screenshot(page: Path, target: Path) -> None:
    """The first screen of the report."""
    from playwright.sync_api import sync_playwright

    browser_path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1100, "height": 740})
        tab.goto(page.resolve().as_uri())
        shot = Image.open(io.BytesIO(tab.screenshot()))
        browser.close()
    shot.convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(target, optimize=True)


def main() -> None:
    run = read_run(PARAMS)
    IMAGES.mkdir(exist_ok=True)
    figures = {"hard_weight": hard_weight(), "rounding": rounding(), **of_run(run)}
    for name, figure in figures.items():
        (IMAGES / f"{name}.png").write_bytes(to_png(figure, dpi=110))
    screenshot(Path("report/index.html"), IMAGES / "report.png")


if __name__ == "__main__":
    main()
