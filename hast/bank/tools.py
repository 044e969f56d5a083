"""Make banks out of banks: save one from memory, filter one, merge several.

All of them go shard by shard, so memory stays flat, and stored pixels are copied as they are.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hast.bank.pixels import decode, encode
from hast.bank.place import check_free
from hast.bank.record import Bank, BankCard, Derivation, Parent
from hast.bank.stored import StoredBank
from hast.bank.writer import BankWriter
from hast.config.bank import Dtype
from hast.errors import InputError
from hast.files.placing import side_folder

_BATCH = 64  # samples, where nobody says how many were made together
_ROUNDING = 1e-5  # of the span of a channel; a code is 4e-3 of it
# Labelled pixels (N, C, H, W) and (N,) to difficulties (N,).
Measure = Callable[[Tensor, Tensor], Tensor]
Preference = Literal["first", "hardest", "easiest"]


class Rows(NamedTuple):
    """Some samples as they are stored."""

    stored: NDArray[Any]  # (n, C, H, W)
    affine: NDArray[Any]  # (n, C, 2) float32
    labels: NDArray[Any]  # (n,) int64
    difficulty: NDArray[Any]  # (n,) float32


def save_bank(bank: Bank, folder: Path | str, *, overwrite: bool = False) -> None:
    """Write a bank from memory, as its card says.

    Raises:
        InputError: `folder` is there, a value is not finite, nobody measured the difficulty, or it
            was measured on other pixels than the card's type can hold.
    """
    if bank.difficulty is None:
        raise InputError(f"{folder}: the bank has no difficulties; take it from hast.synthesize")
    target = Path(folder)
    check_free(target, overwrite=overwrite)
    with side_folder(target) as side:
        writer = BankWriter(side, bank.card, batch_size_of(bank.card))
        for shard in writer.shards():
            images = bank.images[shard].float().cpu()
            stored, affine = encode(images.numpy(), bank.card.dtype)
            _check_unchanged(images, decode(stored, affine), bank.card.dtype, target)
            writer.write_stored(shard, stored, affine, bank.labels[shard].cpu().numpy())
        writer.seal(bank.difficulty, bank.bns_gap)
        writer.publish(target, overwrite=overwrite)


def _check_unchanged(images: Tensor, stored: Tensor, dtype: Dtype, target: Path) -> None:
    """What is stored must be what was measured, up to the rounding of the scale."""
    span = images.amax((2, 3), keepdim=True) - images.amin((2, 3), keepdim=True)
    if ((stored - images).abs() > _ROUNDING * span).any():
        raise InputError(
            f"{target}: the bank's difficulties are of its float32 images, which {dtype} would"
            f" round; make it with hast.synthesize(..., dtype={dtype!r}), or store float32:"
            " bank._replace(card=bank.card.model_copy(update={'dtype': 'float32'}))"
        )


def check_duplicates(bank: StoredBank) -> None:
    """Look for samples that are stored twice.

    Raises:
        InputError: two samples have the same pixels.
    """
    seen: dict[bytes, int] = {}
    for rows in bank.shards():
        for place, digest in enumerate(_digests(_rows(bank, rows)), rows.start):
            first = seen.setdefault(digest, place)
            if first != place:
                raise InputError(f"{bank.folder}: sample {place} is a duplicate of sample {first}")


def filter_bank(
    source: Path,
    target: Path,
    *,
    classes: Sequence[int] = (),
    difficulty: tuple[float, float] = (0.0, 1.0),
    count: int | None = None,
    prefer: Preference = "first",
    dtype: Dtype | None = None,
    measure: Measure | None = None,
    overwrite: bool = False,
) -> BankCard:
    """Write the samples of a bank that pass, in their order, as a bank that names its parent.

    Args:
        source, target: folders.
        classes: labels to keep; empty keeps all.
        difficulty: least and greatest to keep.
        count: the most to keep.
        prefer: which ones, where more would pass.
        dtype: of the images; by default that of the parent.
        measure: difficulty under the teacher, needed where `dtype` rounds the pixels.
        overwrite: another bank may be at `target`.

    Raises:
        InputError: the parent is damaged, nothing passes, the pixels would be rounded and nobody
            can measure them, or `target` is there.
    """
    check_free(target, overwrite=overwrite)
    bank = StoredBank(source)
    if measure is None and dtype not in (None, bank.card.dtype, "float32"):
        raise InputError(
            f"{source}: {dtype} rounds its {bank.card.dtype} pixels, so that their difficulty is"
            " another; give the teacher to measure it (`--teacher FOLDER`)"
        )
    hard = bank.difficulty.numpy()
    keep = (hard >= difficulty[0]) & (hard <= difficulty[1])
    unknown = set(classes) - set(range(bank.card.spec.num_classes))
    if unknown:
        raise InputError(f"{source}: has no class {min(unknown)}")
    if classes:
        keep &= np.isin(bank.labels.numpy(), classes)
    index = np.flatnonzero(keep)
    if count is not None and len(index) > count:
        orders: dict[str, NDArray[Any]] = {
            "first": index, "hardest": -hard[index], "easiest": hard[index]
        }  # fmt: skip
        order = orders[prefer]
        index = np.sort(index[np.argsort(order, kind="stable")[:count]])
    if not len(index):
        raise InputError(f"{source}: no sample passes the filter; widen it")
    rules = {
        "classes": list(classes), "difficulty": list(difficulty), "count": count, "prefer": prefer,
    }  # fmt: skip
    card = _derived([bank], "filter", rules, len(index)).model_copy(
        update={"dtype": dtype or bank.card.dtype}
    )
    _write(target, card, _selected(bank, index), measure=measure, overwrite=overwrite)
    return card


def merge_banks(sources: Sequence[Path], target: Path, *, overwrite: bool = False) -> BankCard:
    """Write the samples of several banks, each once, as a bank that names its parents.

    Raises:
        InputError: the banks differ in teacher, spec or data type, or `target` is there.
    """
    check_free(target, overwrite=overwrite)
    banks = [StoredBank(source) for source in sources]
    first = banks[0].card
    for bank in banks[1:]:
        for what in ("teacher", "spec", "dtype"):
            ours, theirs = getattr(first, what), getattr(bank.card, what)
            if ours != theirs:
                raise InputError(
                    f"{bank.folder}: has {what} {theirs} but {banks[0].folder} has {ours}; only"
                    " banks of one teacher, spec and data type merge (`hast bank filter --dtype`)"
                )
    indices = _first_occurrences(banks)
    card = _derived(banks, "merge", {}, sum(map(len, indices)))
    parts = (rows for bank, index in zip(banks, indices, strict=True)
             for rows in _selected(bank, index))  # fmt: skip
    _write(target, card, parts, overwrite=overwrite)
    return card


def _derived(
    banks: Sequence[StoredBank], operation: Any, rules: dict[str, Any], samples: int
) -> BankCard:
    cards = [bank.card for bank in banks]
    parents = tuple(
        Parent(
            digest=bank.digest,
            samples=bank.card.samples,
            synthesis=bank.card.synthesis,
            generator=bank.card.generator,
            libraries=bank.card.libraries,
        )
        for bank in banks
    )
    same = {
        name: value
        for name, value in cards[0].model_dump().items()
        if name in ("synthesis", "generator", "libraries")
        and all(getattr(card, name) == value for card in cards)
    }
    return BankCard(
        samples=samples,
        dtype=cards[0].dtype,
        spec=cards[0].spec,
        teacher=cards[0].teacher,
        derived=Derivation(operation=operation, parameters=rules, parents=parents),
        **{"synthesis": {}, **same},
    )


def _first_occurrences(banks: Sequence[StoredBank]) -> list[NDArray[np.intp]]:
    """For each bank the samples that no earlier one holds."""
    seen: set[bytes] = set()
    indices = []
    for bank in banks:
        index = []
        for rows in bank.shards():
            for place, digest in enumerate(_digests(_rows(bank, rows)), rows.start):
                if digest not in seen:
                    seen.add(digest)
                    index.append(place)
        indices.append(np.array(index, dtype=np.intp))
    return indices


def _digests(rows: Rows) -> Iterator[bytes]:
    """The identity of each sample: its pixels."""
    for stored, affine in zip(rows.stored, rows.affine, strict=True):
        yield hashlib.sha256(stored.tobytes() + affine.tobytes()).digest()


def _rows(bank: StoredBank, rows: slice) -> Rows:
    return Rows(*bank.stored(rows), bank.labels[rows].numpy(), bank.difficulty[rows].numpy())


def _selected(bank: StoredBank, index: NDArray[np.intp]) -> Iterator[Rows]:
    """The samples of an ascending index, shard by shard."""
    for rows in bank.shards():
        inside = index[(index >= rows.start) & (index < rows.stop)] - rows.start
        if len(inside):
            yield Rows(*(part[inside] for part in _rows(bank, rows)))


def _write(
    target: Path,
    card: BankCard,
    parts: Iterator[Rows],
    *,
    measure: Measure | None = None,
    overwrite: bool,
) -> None:
    with side_folder(target) as side:
        writer = BankWriter(side, card, _BATCH)
        difficulty = []
        sizes = [shard.stop - shard.start for shard in writer.shards()]
        for shard, rows in zip(writer.shards(), _regrouped(parts, sizes), strict=True):
            stored, affine, measured = rows.stored, rows.affine, rows.difficulty
            if stored.dtype != card.dtype:
                stored, affine = encode(decode(stored, affine).numpy(), card.dtype)
                if measure is not None:
                    labels = torch.from_numpy(rows.labels)
                    measured = measure(decode(stored, affine), labels).numpy()
            writer.write_stored(shard, stored, affine, rows.labels)
            difficulty.append(measured)
        writer.seal(torch.from_numpy(np.concatenate(difficulty)))
        writer.publish(target, overwrite=overwrite)


def _regrouped(parts: Iterator[Rows], sizes: Sequence[int]) -> Iterator[Rows]:
    """The same samples in groups of the given sizes."""
    held: list[Rows] = []
    for size in sizes:
        while sum(len(rows.labels) for rows in held) < size:
            held.append(next(parts))
        whole = Rows(*(np.concatenate(columns) for columns in zip(*held, strict=True)))
        yield Rows(*(column[:size] for column in whole))
        held = [Rows(*(column[size:] for column in whole))]


def batch_size_of(card: BankCard) -> int:
    """Samples that were made together, as far as the card tells."""
    size = card.synthesis.get("batch_size", _BATCH)
    return size if isinstance(size, int) and 0 < size <= 1 << 20 else _BATCH
