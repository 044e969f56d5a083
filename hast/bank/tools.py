"""Make banks out of banks: save one from memory, filter one, merge several.

All of them go shard by shard, so memory stays flat, and stored pixels are copied as they are.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hast.bank.pixels import as_stored, decode
from hast.bank.place import check_free
from hast.bank.record import Bank, BankCard, Derivation, Parent
from hast.bank.stored import StoredBank
from hast.bank.writer import new_bank
from hast.config.bank import Dtype
from hast.errors import InputError
from hast.loops.profile import profile_batches, whole_profile

_BATCH = 64  # samples, where nobody says how many were made together
_MEASURED = 256  # samples whose difficulty is measured together
_ROUNDING = 1e-5  # of the span of a channel; a code is 4e-3 of it
Preference = Literal["first", "hardest", "easiest"]
_HISTORY = ("synthesis", "generator", "libraries")  # of a card: how its samples came to be


def save_bank(bank: Bank, folder: Path | str, *, overwrite: bool = False) -> None:
    """Write a bank from memory, as its card says.

    Raises:
        InputError: `folder` is there, a value is not finite, nobody measured the difficulty, or it
            was measured on other pixels than the card's type can hold.
    """
    if bank.difficulty is None:
        raise InputError(f"{folder}: the bank has no difficulties; take it from hast.synthesize")
    target = Path(folder)
    with new_bank(target, bank.card, batch_size_of(bank.card), overwrite=overwrite) as writer:
        for shard in writer.shards():
            images = bank.images[shard].float().cpu()
            _check_unchanged(images, bank.card.dtype, target)
            writer.write(shard, images, bank.labels[shard])
        writer.seal(bank.difficulty, bank.bns_gap)


def _check_unchanged(images: Tensor, dtype: Dtype, target: Path) -> None:
    """What is stored must be what was measured, up to the rounding of the scale."""
    span = images.amax((2, 3), keepdim=True) - images.amin((2, 3), keepdim=True)
    if ((as_stored(images, dtype) - images).abs() > _ROUNDING * span).any():
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
    for place, digest in enumerate(_digests(bank)):
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
    teacher: nn.Module | None = None,
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
        teacher: measures the difficulty again, which is needed where `dtype` rounds the pixels.
        overwrite: another bank may be at `target`.

    Raises:
        InputError: the parent is damaged, nothing passes, the pixels would be rounded and nobody
            can measure them, or `target` is there.
    """
    check_free(target, overwrite=overwrite)
    bank = StoredBank(source)
    if teacher is None and dtype not in (None, bank.card.dtype, "float32"):
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
    if prefer != "first":
        index = index[np.argsort(hard[index] * (1 if prefer == "easiest" else -1), kind="stable")]
    index = np.sort(index[:count])
    if not len(index):
        raise InputError(f"{source}: no sample passes the filter; widen it")
    rules = {
        "classes": list(classes), "difficulty": list(difficulty), "count": count, "prefer": prefer,
    }  # fmt: skip
    how = Derivation(operation="filter", parameters=rules)
    card = _derived([bank], len(index), dtype or bank.card.dtype, how)
    samples = np.stack([np.zeros_like(index), index], axis=1)
    _write(target, card, [bank], samples, teacher=teacher, overwrite=overwrite)
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
    places: dict[bytes, tuple[int, int]] = {}
    for number, bank in enumerate(banks):
        for place, digest in enumerate(_digests(bank)):
            places.setdefault(digest, (number, place))
    card = _derived(banks, len(places), first.dtype, Derivation(operation="merge"))
    _write(target, card, banks, np.array([*places.values()]), overwrite=overwrite)
    return card


def _derived(banks: Sequence[StoredBank], samples: int, dtype: Dtype, how: Derivation) -> BankCard:
    """The card of a bank made from others; `how` says all but which."""
    histories = [{name: getattr(bank.card, name) for name in _HISTORY} for bank in banks]
    parents = tuple(
        Parent(digest=bank.digest, samples=len(bank), pictures=bank.card.pictures(), **history)
        for bank, history in zip(banks, histories, strict=True)
    )
    first = histories[0]
    same = {k: v for k, v in first.items() if all(history[k] == v for history in histories)}
    return BankCard(
        samples=samples,
        dtype=dtype,
        spec=banks[0].card.spec,
        teacher=banks[0].card.teacher,
        derived=how.model_copy(update={"parents": parents}),
        **{"synthesis": {}} | same,
    )


def _digests(bank: StoredBank) -> Iterator[bytes]:
    """The identity of each sample: its pixels."""
    for shard in bank.shards():
        for stored, affine in zip(*bank.images.stored(shard), strict=True):
            yield hashlib.sha256(stored.numpy().tobytes() + affine.numpy().tobytes()).digest()


def _write(
    target: Path,
    card: BankCard,
    banks: Sequence[StoredBank],
    samples: NDArray[np.int64],
    *,
    teacher: nn.Module | None = None,
    overwrite: bool,
) -> None:
    """Write a bank of samples of others.

    Args:
        target, card, teacher, overwrite: see `filter_bank`.
        banks: what to take from.
        samples: (N, 2), the number of its bank and its place there, both ascending.
    """
    with new_bank(target, card, _BATCH, overwrite=overwrite) as writer:
        difficulty = []
        for shard in writer.shards():
            numbers, places = samples[shard].T
            parts = [
                (*bank.images.stored(rows), bank.labels[rows], bank.difficulty[rows])
                for number, bank in enumerate(banks)
                for rows in [torch.from_numpy(places[numbers == number])]
            ]
            stored, affine, labels, hard = map(torch.cat, zip(*parts, strict=True))
            if card.dtype == banks[0].card.dtype:
                writer.write_stored(shard, (stored.numpy(), affine.numpy()), labels.numpy())
            else:
                images = decode(stored, affine)
                writer.write(shard, images, labels)
                if teacher is not None:
                    kept = as_stored(images, card.dtype)
                    batches = zip(kept.split(_MEASURED), labels.split(_MEASURED), strict=True)
                    hard = whole_profile(profile_batches(teacher, batches)).difficulty
            difficulty.append(hard)
        writer.seal(torch.cat(difficulty))


def batch_size_of(card: BankCard) -> int:
    """Samples that were made together, as far as the card tells."""
    size = card.synthesis.get("batch_size", _BATCH)
    return size if isinstance(size, int) and 0 < size <= 1 << 20 else _BATCH
