"""Measure networks on labelled images. In fp32, in one pass, without choosing anything.

All networks see the same batches side by side, so that differences between them can be counted
image by image: on the same images two accuracies differ far more surely than their separate
intervals say (math/intervals.py). Agreement with the teacher needs no labels, and tells what was
kept of the network; accuracy tells what that was worth.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hast.engine.engine import in_parts
from hast.engine.progress import track
from hast.engine.runtime import device_of, loop
from hast.math.hardness import sample_difficulty

TOGETHER = 256  # images of a bank


class Evaluation(NamedTuple):
    """What one network is worth; shares are in [0, 1]."""

    samples: int
    top1: float
    top5: float  # share of labels among the first five answers
    agreement: float  # share of equal first answers with the reference


class Prediction(NamedTuple):
    """What one network says about N images, on the CPU."""

    answer: Tensor  # (N,) class of the largest logit
    in_five: Tensor  # (N,) bool, whether the label is among the first five
    difficulty: Tensor  # (N,) 1 - p(label), in [0, 1]


class Predictions(NamedTuple):
    """What several networks say about the same N images."""

    labels: Tensor  # (N,)
    by_network: dict[str, Prediction]

    def evaluation(self, name: str, *, reference: str) -> Evaluation:
        """Shares of the network `name`; agreement is measured to `reference`."""
        said, expected = self.by_network[name], self.by_network[reference]
        right = (said.answer == self.labels, said.in_five, said.answer == expected.answer)
        total = len(self.labels)
        return Evaluation(total, *(int(answers.sum()) / total for answers in right))


@loop
def predict(
    networks: Mapping[str, nn.Module], batches: Iterable[tuple[Tensor, Tensor]]
) -> Iterator[Predictions]:
    """Ask several networks side by side; yields one record a batch.

    Args:
        networks: by name, all on one device, in eval mode. A network named twice is asked once.
        batches: normalized images (N, C, H, W) and labels (N,).
    """
    device = device_of(next(iter(networks.values())))
    for images, labels in batches:
        x, y = images.to(device), labels.to(device)
        with torch.no_grad():
            said = {id(n): _predict(in_parts(n, x), y) for n in dict.fromkeys(networks.values())}
        yield Predictions(y.cpu(), {name: said[id(n)] for name, n in networks.items()})


def joined(parts: Iterable[Predictions]) -> Predictions:
    """Records of several batches as one."""
    labels, said = zip(*parts, strict=True)
    by_network = {
        name: Prediction(*map(torch.cat, zip(*(part[name] for part in said), strict=True)))
        for name in said[0]
    }
    return Predictions(torch.cat(labels), by_network)


def predict_all(
    networks: Mapping[str, nn.Module],
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    total: int,
    label: str,
) -> Predictions:
    """`predict` on all batches, as one record, with progress.

    Args:
        networks, batches: as of `predict`.
        total: number of batches; with none there is nothing to ask.
        label: of the progress.
    """
    if total:
        return joined(track(predict(networks, batches), total=total, label=label))
    none = Prediction(torch.empty(0).long(), torch.empty(0).bool(), torch.empty(0))
    return Predictions(torch.empty(0).long(), dict.fromkeys(networks, none))


def _predict(logits: Tensor, labels: Tensor) -> Prediction:
    # argmax on both sides: topk breaks ties another way, and a network must agree with itself.
    answer = logits.argmax(dim=1)
    first_five = logits.topk(min(5, logits.shape[1]), dim=1).indices
    in_five = (first_five == labels.unsqueeze(1)).any(dim=1) | (answer == labels)
    difficulty = sample_difficulty(logits, labels)
    return Prediction(answer.cpu(), in_five.cpu(), difficulty.float().cpu())
