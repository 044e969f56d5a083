"""Images of a bank in pixel space."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hast.engine.engine import Images
from hast.report.figures.canvas import Axes, Figure, canvas


def choose_samples(labels: Tensor, difficulty: Tensor, *, classes: int, columns: int) -> Tensor:
    """Samples that show every class from easy to hard.

    Args:
        labels: (N,).
        difficulty: (N,), in [0, 1].
        classes: rows; where there are more classes, evenly spaced ones are taken.
        columns: evenly spaced ranks of difficulty in a class.

    Returns:
        Indices (rows, columns), each row sorted by difficulty; -1 where a class has too few.
    """
    present = labels.unique()
    spaced = torch.linspace(0, len(present) - 1, min(classes, len(present))).round().long()
    rows = []
    for label in present[spaced].tolist():
        members = (labels == label).nonzero().flatten()
        members = members[difficulty[members].argsort(stable=True)]
        count = min(columns, len(members))
        ranks = torch.linspace(0, len(members) - 1, count).round().long()
        rows.append(torch.cat([members[ranks], torch.full((columns - count,), -1)]))
    return torch.stack(rows)


def sample_grid(
    images: Images,
    labels: Tensor,
    difficulty: Tensor,
    *,
    to_pixels: Callable[[Tensor], Tensor] = lambda images: images,
    class_names: Sequence[str] = (),
    classes: int = 10,
    columns: int = 8,
) -> Figure:
    """Images by class (rows) and difficulty (columns, easy to hard), the difficulty under each.

    Args:
        images: (N, C, H, W); only what is shown is taken.
        to_pixels: brings images into [0, 1].
        labels, difficulty, classes, columns: see `choose_samples`.
        class_names: of all classes, or empty.
    """
    grid = choose_samples(labels, difficulty, classes=classes, columns=columns)
    size = {"width": 0.9 * columns + 0.6, "height": 0.98 * len(grid) + 0.2}
    with canvas(len(grid), columns, **size) as (figure, axes):
        for ax, index in zip(axes, grid.flatten().tolist(), strict=True):
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if index >= 0:
                _show(ax, to_pixels(images[[index]])[0])
                ax.set_xlabel(f"{difficulty[index]:.2f}", fontsize=7, labelpad=1)
        for ax, row in zip(axes[::columns], grid, strict=True):
            label = int(labels[row[0]])
            name = class_names[label] if class_names else str(label)
            ax.set_ylabel(name[:14], rotation=0, ha="right", va="center")
    return figure


def _show(ax: Axes, image: Tensor) -> None:
    """An image (C, H, W); one that is neither grey nor RGB is shown by its mean."""
    if len(image) != 3:
        image = image.mean(dim=0, keepdim=True)
    ax.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
