"""Hardness scores of a bank as a Zarr group: one float32 array (N,) a measure."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor

from hast.errors import InputError
from hast.storage.untrusted import check_array, read_attributes


def save_hardness(store: Path, scores: Mapping[str, Tensor], bank: str) -> None:
    """Write the scores, with the key of the bank they belong to."""
    group = zarr.create_group(store, zarr_format=3, overwrite=True, attributes={"bank": bank})
    for name, values in sorted(scores.items()):
        # All zeros are written too: a missing chunk would look like a damaged store.
        options: Any = {"write_empty_chunks": True}
        data = values.float().cpu().numpy()
        group.create_array(name, data=data, chunks=data.shape, compressors=None, config=options)


def load_hardness(store: Path, name: str, *, bank: str) -> Tensor:
    """Read one measure, (N,).

    Raises:
        InputError: the store is missing or malformed, or belongs to another bank.
    """
    if not store.is_dir():
        raise InputError(f"{store}: no hardness scores; run `dvc repro score`")
    made_for = read_attributes(store).get("bank")
    if made_for != bank:
        raise InputError(
            f"{store}: scores belong to bank {made_for!r}, not to {bank!r}; rerun `dvc repro score`"
        )
    return torch.from_numpy(np.concatenate(check_array(store / name, "float32", (None,)).maps()))
