"""Damaged and hostile banks: one clear line, exit code 2, nothing overwritten, flat memory."""

import json
import os
import re
import shutil
import tracemalloc
from collections.abc import Callable
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from banks import TEACHER, noise_bank
from conftest import files, refused
from numcodecs.zstd import Zstd

from hast.bank.manifest import write_manifest
from hast.bank.stored import open_bank
from hast.bank.tools import save_bank
from hast.bank.transfer import pull_bank
from hast.config.bank import BankConfig
from hast.config.section import parse_section
from hast.files.teachers import TeacherCard
from hast.files.weights import save_with_card

BANK = noise_bank(300, (3, 8, 8), bns_gap=torch.rand(3))
SPEC = BANK.card.spec
SHARD = "images/c/1/0/0/0"
MOST_MEMORY = 16 << 20

Damage = Callable[[Path], Any]  # done to the store


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "bank"
    save_bank(BANK, folder)
    return folder


def edited(name: str, change: Callable[[Any], Any]) -> Damage:
    """A JSON file of the store is changed in place."""

    def damage(store: Path) -> None:
        values = json.loads((store / name).read_text())
        change(values)
        (store / name).write_text(json.dumps(values))

    return damage


def updated(name: str, *path: str) -> Callable[..., Damage]:
    """What lies at a path in a JSON file gets other values, by their names."""
    return lambda **values: edited(name, lambda v: reduce(getitem, path, v).update(values))


manifest = updated("../manifest.json")
attributes = updated("zarr.json", "attributes")
spec = updated("zarr.json", "attributes", "spec")
images = updated("images/zarr.json")
chunks = updated("images/zarr.json", "chunk_grid", "configuration")
keys = updated("images/zarr.json", "chunk_key_encoding")


def labels(change: Callable[[Any], Any]) -> Damage:
    return edited("labels/zarr.json", change)


def more_codecs(name: str, codec: str) -> Damage:
    return edited(f"{name}/zarr.json", lambda v: v["codecs"].append({"name": codec}))


def value(column: str, index: Any, number: float) -> Damage:
    """One number of a column is changed, through Zarr itself."""

    def damage(store: Path) -> None:
        array = zarr.open_array(store / column, mode="r+")
        values = array[:]
        values[index] = number
        array[:] = values

    return damage


def content(name: str, data: bytes | str) -> Damage:
    """A file holds something else."""
    written = data if isinstance(data, bytes) else data.encode()
    return lambda store: (store / name).write_bytes(written)


def cut(name: str, size: int) -> Damage:
    return lambda store: os.truncate(store / name, size)


def without(name: str) -> Damage:
    return lambda store: (store / name).unlink()


def replaced(make: Damage) -> Damage:
    """Something else than a store is in its place."""

    def damage(store: Path) -> None:
        shutil.rmtree(store)
        make(store)

    return damage


def linked(name: str) -> Damage:
    def damage(store: Path) -> None:
        path = store.parent / name
        moved = path.rename(path.with_name("elsewhere"))
        path.symlink_to(moved, target_is_directory=moved.is_dir())

    return damage


def all_of(*damages: Damage) -> Damage:
    return lambda store: [damage(store) for damage in damages]


def flip_a_byte(store: Path) -> None:
    data = bytearray((store / SHARD).read_bytes())
    data[len(data) // 3] ^= 1
    (store / SHARD).write_bytes(bytes(data))


def shard_in_chunks(array: dict) -> None:
    inner = array["chunk_grid"]["configuration"] | {"codecs": array["codecs"]}
    array["codecs"] = [{"name": "sharding_indexed", "configuration": inner}]


def measure_endless_layers(store: Path) -> None:
    shutil.rmtree(store / "bns_gap")
    values = np.zeros(100_001, np.float32)
    options = {"compressors": None, "config": {"write_empty_chunks": True}}
    zarr.open_group(store).create_array("bns_gap", data=values, chunks=values.shape, **options)


# A chunk of a few bytes that decompresses to 64 MB.
BOMB = bytes(Zstd(checksum=True).encode(b"\0" * (64 << 20)))
BOTTOMLESS = "[" * 100_000 + "]" * 100_000
TAKES = "has 12288 bytes but a chunk takes "
CODECS = "must have codecs .*, got .*"
SHAPE = r"must have shape \[300, 3, 8, 8\], got "

# What was done to the store, and what the line says. The manifest stays as it was.
DAMAGED = {
    "a truncated shard": (cut(SHARD, 100), "has 100 bytes but a chunk takes 12288"),
    "a flipped byte": (flip_a_byte, r"1 file\(s\) changed, first " + SHARD),
    "a missing shard": (without(SHARD), "c/1/0/0/0: is missing"),
    "a missing column": (without("labels/c/0"), "labels/c/0: is missing"),
    "an extra file": (content("x", ""), "no part of a bank, first x"),
    "an edited hash": (manifest(**{SHARD: "0" * 64}), r"1 file\(s\) changed"),
    "a name left out of the manifest": (
        edited("../manifest.json", lambda m: m.pop(SHARD)), r"1 file\(s\) not in the manifest",
    ),
    **{
        f"{name} in the manifest": (manifest(**{to: "0" * 64}), f"'{to}' leads out of the store")
        for name, to in (("a traversal", "../../x"), ("an absolute name", "/etc/passwd"))
    },
    "no hash in the manifest": (manifest(**{SHARD: 7}), "must have a sha256 sum, got 7"),
    "a manifest that is a list": (content("../manifest.json", "[]"), "must map file names"),
    "a bottomless manifest": (
        content("../manifest.json", BOTTOMLESS), "manifest.json: cannot be read",
    ),
    "no manifest": (without("../manifest.json"), "manifest.json: cannot be"),
    "a manifest that is a link": (linked("manifest.json"), "manifest must not be a link"),
    "a store that is a link": (linked("bank.zarr"), "must not hold links"),
    "an empty bank": (replaced(Path.mkdir), "zarr.json: cannot be read"),
    "no store": (shutil.rmtree, "no such bank; run `dvc repro synthesize`"),
    "a text file": (replaced(lambda p: p.write_text("bank")), "no such bank"),
}  # fmt: skip

# The same, with a manifest that fits: whoever made it meant it.
HOSTILE = {
    "a truncated shard": (cut(SHARD, 10), "has 10 bytes but a chunk takes 12288; .* damaged or"),
    "a shard that lacks a byte": (cut(SHARD, 12287), "has 12287 bytes but a chunk takes 12288"),
    "a shard with a byte too many": (
        content(SHARD, bytes(12289)), "has 12289 bytes but a chunk takes 12288",
    ),
    "a last shard without its padding": (cut("images/c/4/0/0/0", 44 * 192), "has 8448 bytes but"),
    "a shard of no bytes": (content(SHARD, b""), "has 0 bytes but"),
    "a shard that is a folder": (
        all_of(without(SHARD), lambda s: (s / SHARD).mkdir()), "c/1/0/0/0: is missing",
    ),
    "a column of another size": (
        content("labels/c/0", b"x" * 40), "has 40 bytes but a chunk takes 2400",
    ),
    "a decompression bomb": (
        all_of(content(SHARD, BOMB), more_codecs("images", "zstd")),
        r"must have codecs \[\{'name': 'bytes'\}\], got .*'zstd'",
    ),
    "a compressed column": (more_codecs("labels", "blosc"), f"{CODECS}'blosc'"),
    "shards inside of chunks": (
        edited("images/zarr.json", shard_in_chunks), f"{CODECS}'sharding_indexed'",
    ),
    "no codec": (images(codecs=[]), r"must have codecs .*, got \[\]"),
    "codecs that are no list": (images(codecs="bytes"), "must have codecs .*, got 'bytes'"),
    "big endian": (
        labels(lambda v: v["codecs"][0]["configuration"].update(endian="big")),
        "must have codecs .*'little'.*, got .*'big'",
    ),
    "no byte order": (
        labels(lambda v: v["codecs"][0].pop("configuration")),
        r"must have codecs .*'little'.*, got \[\{'name': 'bytes'\}\]",
    ),
    "a link": (lambda s: (s / "x").symlink_to("/etc/passwd"), "must not hold links"),
    "a linked shard": (linked(f"bank.zarr/{SHARD}"), "must not hold links"),
    "a named pipe": (lambda s: os.mkfifo(s / "x"), "files and folders only"),
    "an extra file": (content("x", ""), "no part of a bank"),
    "an extra array": (
        lambda s: zarr.open_group(s).create_array("more", shape=(1,), dtype="int8"),
        "no part of a bank, first more/",
    ),
    "another data type": (images(data_type="float64"), "must have data_type uint8, got 'float64'"),
    "another data type than the card's": (
        attributes(dtype="float32"), "must have data_type float32, got 'uint8'",
    ),
    "a data type that is no name": (
        images(data_type={"name": "object"}), "must have data_type uint8, got",
    ),
    "another shape than the card's": (images(shape=[299, 3, 8, 8]), rf"{SHAPE}\[299, 3, 8, 8\]"),
    "negative dimensions": (images(shape=[-1, 3, 8, 8]), SHAPE),
    "no samples": (images(shape=[0, 3, 8, 8]), SHAPE),
    "absurdly large images": (
        all_of(spec(input_shape=[3, 40_000, 40_000]), images(shape=[300, 3, 40_000, 40_000]),
               chunks(chunk_shape=[64, 3, 40_000, 40_000])),
        f"{TAKES}307200000000",
    ),
    "absurdly many samples": (
        all_of(attributes(samples=10**12), images(shape=[10**12, 3, 8, 8])),
        "c/5/0/0/0: is missing",
    ),
    "huge chunks": (chunks(chunk_shape=[1 << 40, 3, 8, 8]), f"{TAKES}211106232532992"),
    "small chunks": (chunks(chunk_shape=[63, 3, 8, 8]), f"{TAKES}12096"),
    "chunks that cut images": (
        chunks(chunk_shape=[64, 1, 8, 8]),
        r"must have chunk_grid .*\[64, 3, 8, 8\].*, got .*\[64, 1, 8, 8\]",
    ),
    "chunks of nothing": (
        chunks(chunk_shape=[0, 3, 8, 8]), "chunk_shape must hold positive integers",
    ),
    "absurdly many layers": (measure_endless_layers, "bns_gap has 100001 values; hostile"),
    "an unknown codec": (more_codecs("images", "evil"), f"{CODECS}'evil'"),
    "a codec that unpickles": (
        labels(lambda v: v.update(codecs=[{"name": "numcodecs.pickle"}])),
        f"{CODECS}'numcodecs.pickle'",
    ),
    "a storage transformer": (
        images(storage_transformers=[{"name": "x"}]), r"must have storage_transformers \[\], got",
    ),
    "other chunk keys": (keys(name="v2"), "must have chunk_key_encoding .*, got .*'v2'"),
    "keys with dots": (keys(configuration={"separator": "."}), "must have chunk_key_encoding"),
    "another format": (attributes(format="x"), "not a hast-bank"),
    **{
        f"version {n}": (
            attributes(version=n),
            f"a bank of version {n}, this program reads version 2; make it again .*dvc repro synth",
        )
        for n in (1, 3)
    },
    "a card without a teacher": (
        edited("zarr.json", lambda v: v["attributes"].pop("teacher")),
        r"\.teacher: required parameter is missing",
    ),
    "an attribute nobody knows": (attributes(hook="os.system"), r"\.hook: unknown parameter"),
    **{
        f"{n} classes": (spec(num_classes=n), f"num_classes must be at most 1000000, got {n}")
        for n in (10**6 + 1, 3 * 10**8, 10**11)
    },
    **{
        f"a class named {name!a}": (
            spec(class_names=[name, "b", "c", "d", "e"]), "with characters that cannot be shown",
        )
        for name in ("\ud800", "\x00", "\x1b[31mred", "two\nlines", "\x9b2J")
    },
    "a library that is no text": (
        attributes(libraries={"\udfff": ""}), "with characters that cannot be shown",
    ),
    "no attributes": (edited("zarr.json", lambda v: v.pop("attributes")), "must have attributes"),
    "metadata without end": (content("zarr.json", BOTTOMLESS), "zarr.json: cannot be read"),
    "metadata of a megabyte": (content("zarr.json", " " * (2 << 20)), "larger than 1 MB"),
    "metadata that are no JSON": (content("zarr.json", "{"), "cannot be read"),
    "a Zarr v2 array": (labels(lambda v: v.update(zarr_format=2)), "must describe a Zarr v3 array"),
    "a Zarr array": (
        replaced(lambda p: zarr.create_array(p, shape=(9,), dtype="int8")),
        "must describe a Zarr v3 group",
    ),
    "a Zarr group": (replaced(zarr.create_group), "not a hast-bank; its format is None"),
    "a card and no array": (
        lambda s: shutil.rmtree(s / "images"), "images/zarr.json: cannot be read",
    ),
    "labels too large": (value("labels", 3, 5), r"they span 0\.\.5"),
    "labels below zero": (value("labels", 3, -1), r"they span -1\.\.4"),
    "NaN": (value("affine", (3, 0, 0), np.nan), "affine must be finite"),
    "pixels that become infinite": (value("affine", (3, 0, 0), 3e38), "affine must be finite"),
    "a difficulty above one": (value("difficulty", 3, 1.5), r"difficulties must lie in 0\.\.1"),
}  # fmt: skip
CASES = {
    **{f"damaged: {name}": (*case, False) for name, case in DAMAGED.items()},
    **{f"hostile: {name}": (*case, True) for name, case in HOSTILE.items()},
}


@pytest.mark.parametrize(("damage", "message", "fits"), CASES.values(), ids=CASES.keys())
def test_it_is_refused_in_one_line(good, tmp_path, hast_refuses, damage, message, fits):
    bad = Path(shutil.copytree(good, tmp_path / "bad"))
    target = Path(shutil.copytree(good, tmp_path / "target"))
    damage(bad / "bank.zarr")
    if fits and (bad / "bank.zarr").is_dir():
        write_manifest(bad / "bank.zarr", bad / "manifest.json")
    before = files(target)

    tracemalloc.start()
    try:
        line = hast_refuses("bank", "merge", str(bad), "--out", str(target), "--overwrite")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_MEMORY
    assert line.startswith("error: hast: ")
    with refused(message):
        open_bank(bad)
    assert files(target) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "target"]


def test_a_bank_for_another_teacher_is_refused_with_both_fingerprints(good):
    with refused(f"{TEACHER}.*{'b' * 64}"):
        open_bank(good, teacher="b" * 64)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("mean", (0.5, 0.5, 0.4)),
        ("std", (0.2, 0.2, 0.3)),
        ("num_classes", 6),
        ("input_shape", (3, 8, 9)),
    ],
)
def test_another_spec_is_refused_with_both_values(good, tmp_path, hast_refuses, name, value):
    other = SPEC.model_copy(update={name: value})
    message = re.escape(f"made for {name} {getattr(SPEC, name)} but the teacher has {value}")
    with refused(message):
        list(pull_bank(str(good), tmp_path / "bank", teacher=TEACHER, spec=other))
    assert not (tmp_path / "bank").exists()

    card = TeacherCard(
        source="builtin:digits_resnet", source_args={}, spec=other, fingerprint=TEACHER
    )
    save_with_card(tmp_path / "teacher", torch.nn.Linear(1, 1), card)
    assert re.search(
        message, hast_refuses("bank", "verify", str(good), "--teacher", f"{tmp_path}/teacher")
    )


def test_names_of_classes_may_differ_from_those_of_the_teacher(good):
    named = SPEC.model_copy(update={"class_names": ("a", "b", "c", "d", "e")})
    assert len(open_bank(good, teacher=TEACHER, spec=named).images) == 300


@pytest.mark.parametrize("classes", [",", "", " , "])
def test_a_filter_by_no_class_is_refused(good, tmp_path, hast_refuses, classes):
    line = hast_refuses("bank", "filter", str(good), str(tmp_path / "x"), "--classes", classes)
    assert "names none; leave --classes out to keep all" in line
    assert not (tmp_path / "x").exists()


def test_an_empty_bank_source_is_neither_none_nor_a_bank():
    with refused("source"):
        parse_section({"source": ""}, BankConfig, name="bank")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floats_that_are_not_finite_are_refused(tmp_path, dtype):
    card = BANK.card.model_copy(update={"dtype": dtype})
    save_bank(BANK._replace(images=BANK.images.half().float(), card=card), tmp_path / "floats")
    store = tmp_path / "floats/bank.zarr"
    value("images", (200, 0, 0, 0), np.inf)(store)
    write_manifest(store, tmp_path / "floats/manifest.json")
    with refused("images must be finite"):
        open_bank(tmp_path / "floats")


def test_a_duplicate_is_found(good, tmp_path, hast_refuses):
    bank = open_bank(good)
    bank.images[7] = bank.images[3]
    save_bank(bank, tmp_path / "twins")
    assert "sample 7 is a duplicate of sample 3" in hast_refuses(
        "bank", "verify", str(tmp_path / "twins")
    )
