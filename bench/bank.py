"""Sizes and rates of banks on disk, by data type and codec, and of reading while training.

    python -m bench.bank [--bank FOLDER] [--samples 5120]

Without a bank it measures normal noise, 3 x 32 x 32, which compresses as badly as synthesized
images do. Rates are medians of three, files in the page cache. Prints tables and writes
bench/out/bank.json.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import torch
import typer
import zarr
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from zarr.codecs import BloscCodec, ZstdCodec

from bench.run import OUT
from hast.bank import Bank, BankCard, Dtype
from hast.networks.spec import ModelSpec
from hast.storage.bank import open_bank
from hast.storage.bank_batches import BankBatches, BankDataset, open_stored
from hast.storage.bank_tools import save_bank
from hast.storage.pixels import decode, encode

_CODECS: dict[str, Any] = {
    "zstd 1": ZstdCodec(level=1, checksum=True),
    "zstd 3": ZstdCodec(level=3, checksum=True),
    "zstd 9": ZstdCodec(level=9, checksum=True),
    "blosc zstd 3, byte shuffle": BloscCodec(cname="zstd", clevel=3, shuffle="shuffle"),
    "blosc zstd 3, bit shuffle": BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle"),
    "blosc lz4, bit shuffle": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
}
_REPEATS = 3


def main(
    bank: Annotated[Path | None, typer.Option(help="Measure its images.")] = None,
    samples: int = 5120,
    batch_size: int = 64,
) -> None:
    given = open_bank(bank) if bank else noise(samples)
    images = given.images.numpy()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            codec_row(Path(folder), images, dtype, name)
            for dtype in get_args(Dtype)
            for name in _CODECS
        ]
        show("Images alone, one array", rows)
        reading = [reading_row(Path(folder), given, dtype, batch_size) for dtype in get_args(Dtype)]
        show(f"Whole banks, batches of {batch_size}", reading)
    OUT.mkdir(exist_ok=True)
    (OUT / "bank.json").write_text(json.dumps({"codecs": rows, "reading": reading}, indent=2))


def noise(samples: int) -> Bank:
    shape = (3, 32, 32)
    spec = ModelSpec(input_shape=shape, num_classes=10, mean=(0.5,) * 3, std=(0.25,) * 3)
    card = BankCard(samples=samples, spec=spec, teacher="0" * 64, synthesis={"batch_size": 256})
    random = torch.Generator().manual_seed(0)
    images = torch.randn(samples, *shape, generator=random)
    labels = torch.randint(10, (samples,), generator=random)
    return Bank(images, labels, card, torch.rand(samples, generator=random))


def codec_row(
    folder: Path, images: NDArray[np.float32], dtype: Dtype, codec: str
) -> dict[str, Any]:
    stored, affine = encode(images, dtype)
    path = folder / "array"

    def write() -> None:
        array: Any = zarr.create_array(
            path, shape=stored.shape, dtype=stored.dtype, chunks=(64, *stored.shape[1:]),
            shards=(1024, *stored.shape[1:]), compressors=[_CODECS[codec]], overwrite=True,
        )  # fmt: skip
        for start in range(0, len(stored), 1024):
            array[start : start + 1024] = encode(images[start : start + 1024], dtype)[0]

    def read() -> None:
        decode(np.asarray(zarr.open_array(path, mode="r")), affine)

    writing, reading = seconds(write), seconds(read)
    size = sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return {
        "dtype": dtype,
        "codec": codec,
        "MB": size / 1e6,
        "smaller than float32": images.nbytes / size,
        "written images/s": len(images) / writing,
        "read images/s": len(images) / reading,
    }


def reading_row(folder: Path, given: Bank, dtype: Dtype, batch_size: int) -> dict[str, Any]:
    place = folder / f"bank-{dtype}"
    save_bank(given._replace(card=given.card.model_copy(update={"dtype": dtype})), place)

    def epoch(held: int | None) -> Callable[[], None]:
        dataset = BankDataset(open_stored(place), held_shards=held)
        batches = BankBatches(dataset, batch_size=batch_size)

        def run() -> None:
            for _ in batches.epoch(0):
                pass

        run()  # the first epoch reads the disk
        return run

    files = [p for p in place.rglob("*") if p.is_file()]
    count = len(given.images)
    return {
        "dtype": dtype,
        "MB": sum(p.stat().st_size for p in files) / 1e6,
        "files": len(files),
        "open and verify, s": seconds(lambda: open_bank(place)),
        "from memory, images/s": count / seconds(epoch(None)),
        "2 shards held, images/s": count / seconds(epoch(2)),
    }


def seconds(action: Callable[[], None] | Callable[[], Bank]) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        cells = (f"{v:,.4g}" if isinstance(v, float) else str(v) for v in row.values())
        table.add_row(*cells)
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
