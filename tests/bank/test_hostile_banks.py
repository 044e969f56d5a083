"""Damaged and hostile banks: one clear line, exit code 2, nothing overwritten, flat memory."""

import json
import os
import re
import shutil
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from banks import noise
from numcodecs.zstd import Zstd

from hast.bank.manifest import write_manifest
from hast.bank.record import Bank, BankCard
from hast.bank.stored import open_bank
from hast.bank.tools import save_bank
from hast.bank.transfer import pull_bank
from hast.cli.main import main
from hast.config.bank import BankConfig
from hast.config.section import parse_section
from hast.config.spec import ModelSpec
from hast.errors import InputError
from hast.files.teachers import TeacherCard
from hast.files.weights import save_with_card

SPEC = ModelSpec(input_shape=(3, 8, 8), num_classes=5, mean=(0.5,) * 3, std=(0.2,) * 3)
TEACHER = "a" * 64
SAMPLES = 300
SHARD = "images/c/1/0/0/0"
MOST_MEMORY = 16 << 20


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    card = BankCard(samples=SAMPLES, spec=SPEC, teacher=TEACHER, synthesis={"seed": 0})
    images = noise(SAMPLES, *SPEC.input_shape)
    labels = torch.arange(SAMPLES) % SPEC.num_classes
    folder = tmp_path_factory.mktemp("good") / "bank"
    save_bank(Bank(images, labels, card, torch.rand(SAMPLES), torch.rand(3)), folder)
    return folder


def edit(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def edit_spec(store: Path, **values) -> None:
    edit(store / "zarr.json", lambda v: v["attributes"]["spec"].update(values))


def edit_images(store: Path, change) -> None:
    edit(store / "images/zarr.json", change)


def edit_labels(store: Path, change) -> None:
    edit(store / "labels/zarr.json", change)


def chunk_shape(array: dict) -> list[int]:
    return array["chunk_grid"]["configuration"]["chunk_shape"]


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))


def truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def rewrite(store: Path, name: str, change) -> None:
    """Change a column through Zarr itself."""
    array = zarr.open_array(store / name, mode="r+")
    values = array[:]
    change(values)
    array[:] = values


def declare_huge_images(store: Path) -> None:
    def change(array):
        array["shape"][2:] = chunk_shape(array)[2:] = [40_000, 40_000]

    edit_spec(store, input_shape=[3, 40_000, 40_000])
    edit_images(store, change)


def declare_many_samples(store: Path) -> None:
    edit(store / "zarr.json", lambda v: v["attributes"].update(samples=10**12))
    edit_images(store, lambda v: v["shape"].__setitem__(0, 10**12))


def plant_a_bomb(store: Path) -> None:
    """A chunk of a few bytes that decompresses to 64 MB, in an array that says so."""
    (store / SHARD).write_bytes(bytes(Zstd(checksum=True).encode(b"\0" * (64 << 20))))
    edit_images(store, lambda v: v["codecs"].append({"name": "zstd"}))


def shard(array: dict) -> None:
    inner = {"chunk_shape": chunk_shape(array), "codecs": array["codecs"]}
    array["codecs"] = [{"name": "sharding_indexed", "configuration": inner}]


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def measure_endless_layers(store: Path) -> None:
    shutil.rmtree(store / "bns_gap")
    values = np.zeros(100_001, np.float32)
    options = {"compressors": None, "config": {"write_empty_chunks": True}}
    zarr.open_group(store).create_array("bns_gap", data=values, chunks=values.shape, **options)


def become(store: Path, make) -> None:
    shutil.rmtree(store)
    make(store)


def relink(path: Path) -> None:
    moved = path.rename(path.with_name("elsewhere"))
    path.symlink_to(moved, target_is_directory=moved.is_dir())


def deep(levels: int = 100_000) -> str:
    return "[" * levels + "]" * levels


# What was done to the store, and what the line says. The manifest stays as it was.
DAMAGED = {
    "a truncated shard": (
        lambda s: truncate(s / SHARD, 100), "has 100 bytes but a chunk takes 12288",
    ),
    "a flipped byte": (lambda s: flip_a_byte(s / SHARD), r"1 file\(s\) changed, first " + SHARD),
    "a missing shard": (lambda s: (s / SHARD).unlink(), "c/1/0/0/0: is missing"),
    "a missing column": (lambda s: (s / "labels/c/0").unlink(), "labels/c/0: is missing"),
    "an extra file": (lambda s: (s / "x").write_text(""), "no part of a bank, first x"),
    "an edited hash": (
        lambda s: edit(s.parent / "manifest.json", lambda m: m.update({SHARD: "0" * 64})),
        r"1 file\(s\) changed",
    ),
    "a name left out of the manifest": (
        lambda s: edit(s.parent / "manifest.json", lambda m: m.pop(SHARD)),
        r"1 file\(s\) not in the manifest",
    ),
    "a traversal in the manifest": (
        lambda s: edit(s.parent / "manifest.json", lambda m: m.update({"../../x": "0" * 64})),
        r"'../../x' leads out of the store",
    ),
    "an absolute name in the manifest": (
        lambda s: edit(s.parent / "manifest.json", lambda m: m.update({"/etc/passwd": "0" * 64})),
        "'/etc/passwd' leads out",
    ),
    "no hash in the manifest": (
        lambda s: edit(s.parent / "manifest.json", lambda m: m.update({SHARD: 7})),
        "must have a sha256 sum, got 7",
    ),
    "a manifest that is a list": (
        lambda s: (s.parent / "manifest.json").write_text("[]"), "must map file names",
    ),
    "a bottomless manifest": (
        lambda s: (s.parent / "manifest.json").write_text(deep()), "manifest.json: cannot be read",
    ),
    "no manifest": (lambda s: (s.parent / "manifest.json").unlink(), "manifest.json: cannot be"),
    "a manifest that is a link": (
        lambda s: relink(s.parent / "manifest.json"), "manifest must not be a link",
    ),
    "a store that is a link": (relink, "must not hold links"),
    "an empty bank": (lambda s: become(s, Path.mkdir), "zarr.json: cannot be read"),
    "no store": (shutil.rmtree, "no such bank"),
    "a text file": (lambda s: become(s, lambda p: p.write_text("bank")), "no such bank"),
}  # fmt: skip

# The same, with a manifest that fits: whoever made it meant it.
HOSTILE = {
    "a truncated shard": (
        lambda s: truncate(s / SHARD, 10), "has 10 bytes but a chunk takes 12288; .* damaged or",
    ),
    "a shard that lacks a byte": (
        lambda s: truncate(s / SHARD, 12287), "has 12287 bytes but a chunk takes 12288",
    ),
    "a shard with a byte too many": (
        lambda s: (s / SHARD).write_bytes(bytes(12289)), "has 12289 bytes but a chunk takes 12288",
    ),
    "a last shard without its padding": (
        lambda s: truncate(s / "images/c/4/0/0/0", 44 * 192), "has 8448 bytes but",
    ),
    "a shard of no bytes": (lambda s: (s / SHARD).write_bytes(b""), "has 0 bytes but"),
    "a shard that is a folder": (lambda s: become_a_folder(s / SHARD), "c/1/0/0/0: is missing"),
    "a column of another size": (
        lambda s: (s / "labels/c/0").write_bytes(b"x" * 40), "has 40 bytes but a chunk takes 2400",
    ),
    "a decompression bomb": (
        plant_a_bomb, r"codecs \['bytes', 'zstd'\] are not allowed; .* must not be compressed",
    ),
    "a compressed column": (
        lambda s: edit_labels(s, lambda v: v["codecs"].append({"name": "blosc"})),
        r"codecs \['bytes', 'blosc'\] are not allowed",
    ),
    "shards inside of chunks": (
        lambda s: edit_images(s, shard), r"codecs \['sharding_indexed'\] are not allowed",
    ),
    "no codec": (lambda s: edit_images(s, lambda v: v.update(codecs=[])), r"codecs \[\] are not"),
    "codecs that are no list": (
        lambda s: edit_images(s, lambda v: v.update(codecs="bytes")), r"codecs \[\] are not",
    ),
    "big endian": (
        lambda s: edit_labels(s, lambda v: v["codecs"][0]["configuration"].update(endian="big")),
        "bytes must be little endian, got 'big'",
    ),
    "no byte order": (
        lambda s: edit_labels(s, lambda v: v["codecs"][0].pop("configuration")),
        "bytes must be little endian, got None",
    ),
    "a link": (lambda s: (s / "x").symlink_to("/etc/passwd"), "must not hold links"),
    "a linked shard": (lambda s: relink(s / SHARD), "must not hold links"),
    "a named pipe": (lambda s: os.mkfifo(s / "x"), "files and folders only"),
    "an extra file": (lambda s: (s / "x").write_text(""), "no part of a bank"),
    "an extra array": (
        lambda s: zarr.open_group(s).create_array("more", shape=(1,), dtype="int8"),
        "no part of a bank, first more/",
    ),
    "another data type": (
        lambda s: edit_images(s, lambda v: v.update(data_type="float64")),
        "data type must be uint8, got 'float64'",
    ),
    "another data type than the card's": (
        lambda s: edit(s / "zarr.json", lambda v: v["attributes"].update(dtype="float32")),
        "data type must be float32, got 'uint8'",
    ),
    "a data type that is no name": (
        lambda s: edit_images(s, lambda v: v.update(data_type={"name": "object"})),
        "data type must be",
    ),
    "another shape than the card's": (
        lambda s: edit_images(s, lambda v: v["shape"].__setitem__(0, SAMPLES - 1)),
        r"must have shape \[300, 3, 8, 8\], got \[299, 3, 8, 8\]",
    ),
    "negative dimensions": (
        lambda s: edit_images(s, lambda v: v.update(shape=[-1, 3, 8, 8])),
        r"must have shape \[300, 3, 8, 8\]",
    ),
    "no samples": (
        lambda s: edit_images(s, lambda v: v.update(shape=[0, 3, 8, 8])),
        r"must have shape \[300, 3, 8, 8\]",
    ),
    "absurdly large images": (
        declare_huge_images, "has 12288 bytes but a chunk takes 307200000000",
    ),
    "absurdly many samples": (declare_many_samples, "c/5/0/0/0: is missing"),
    "huge chunks": (
        lambda s: edit_images(s, lambda v: chunk_shape(v).__setitem__(0, 1 << 40)),
        "has 12288 bytes but a chunk takes 211106232532992",
    ),
    "small chunks": (
        lambda s: edit_images(s, lambda v: chunk_shape(v).__setitem__(0, 63)),
        "has 12288 bytes but a chunk takes 12096",
    ),
    "chunks that cut images": (
        lambda s: edit_images(s, lambda v: chunk_shape(v).__setitem__(1, 1)),
        r"along its first dimension only, got chunks of \[64, 1, 8, 8\]",
    ),
    "chunks of nothing": (
        lambda s: edit_images(s, lambda v: chunk_shape(v).__setitem__(0, 0)),
        "along its first dimension only",
    ),
    "absurdly many layers": (measure_endless_layers, "bns_gap has 100001 values; hostile"),
    "an unknown codec": (
        lambda s: edit_images(s, lambda v: v["codecs"].append({"name": "evil"})),
        r"codecs \['bytes', 'evil'\] are not allowed",
    ),
    "a codec that unpickles": (
        lambda s: edit_labels(s, lambda v: v.update(codecs=[{"name": "numcodecs.pickle"}])),
        r"codecs \['numcodecs.pickle'\] are not allowed",
    ),
    "a storage transformer": (
        lambda s: edit_images(s, lambda v: v.update(storage_transformers=[{"name": "x"}])),
        "no transformers",
    ),
    "other chunk keys": (
        lambda s: edit_images(s, lambda v: v["chunk_key_encoding"].update(name="v2")),
        "default keys",
    ),
    "keys with dots": (
        lambda s: edit_images(
            s, lambda v: v["chunk_key_encoding"].update(configuration={"separator": "."})
        ),
        "default keys",
    ),
    "another format": (
        lambda s: edit(s / "zarr.json", lambda v: v["attributes"].update(format="x")),
        "not a hast-bank",
    ),
    "a newer version": (
        lambda s: edit(s / "zarr.json", lambda v: v["attributes"].update(version=3)),
        "a bank of version 3, this program reads version 2; make it again",
    ),
    "version 1": (
        lambda s: edit(s / "zarr.json", lambda v: v["attributes"].update(version=1)),
        "a bank of version 1, this program reads version 2; make it again .*dvc repro synthesize",
    ),
    "a card without a teacher": (
        lambda s: edit(s / "zarr.json", lambda v: v["attributes"].pop("teacher")),
        r"attribute \('teacher',\)",
    ),
    "an attribute nobody knows": (
        lambda s: edit(s / "zarr.json", lambda v: v["attributes"].update(hook="os.system")),
        r"attribute \('hook',\)",
    ),
    **{
        f"{classes} classes": (
            lambda s, classes=classes: edit_spec(s, num_classes=classes),
            f"num_classes must be at most 1000000, got {classes}",
        )
        for classes in (10**6 + 1, 3 * 10**8, 10**11)
    },
    **{
        f"a class named {name!a}": (
            lambda s, name=name: edit_spec(s, class_names=[name, "b", "c", "d", "e"]),
            "with characters that cannot be shown",
        )
        for name in ("\ud800", "\x00", "\x1b[31mred", "two\nlines", "\x9b2J")
    },
    "a library that is no text": (
        lambda s: edit(s / "zarr.json", lambda v: v["attributes"].update(libraries={"\udfff": ""})),
        "with characters that cannot be shown",
    ),
    "no attributes": (
        lambda s: edit(s / "zarr.json", lambda v: v.pop("attributes")), "must have attributes",
    ),
    "metadata without end": (
        lambda s: (s / "zarr.json").write_text(deep()), "zarr.json: cannot be read",
    ),
    "metadata of a megabyte": (
        lambda s: (s / "zarr.json").write_text(" " * (2 << 20)), "larger than 1 MB",
    ),
    "metadata that are no JSON": (lambda s: (s / "zarr.json").write_text("{"), "cannot be read"),
    "a Zarr v2 array": (
        lambda s: edit(s / "labels/zarr.json", lambda v: v.update(zarr_format=2)),
        "must describe a Zarr v3 node",
    ),
    "a Zarr array": (
        lambda s: become(s, lambda p: zarr.create_array(p, shape=(9,), dtype="int8")),
        "must be a Zarr v3 group, got 'array'",
    ),
    "a Zarr group": (
        lambda s: become(s, lambda p: zarr.create_group(p)), "not a hast-bank; its format is None",
    ),
    "a card and no array": (
        lambda s: shutil.rmtree(s / "images"), "images/zarr.json: cannot be read",
    ),
    "labels too large": (
        lambda s: rewrite(s, "labels", lambda v: v.__setitem__(3, 5)), r"they span 0\.\.5",
    ),
    "labels below zero": (
        lambda s: rewrite(s, "labels", lambda v: v.__setitem__(3, -1)), r"they span -1\.\.4",
    ),
    "NaN": (
        lambda s: rewrite(s, "affine", lambda v: v.__setitem__((3, 0, 0), np.nan)),
        "affine must be finite",
    ),
    "pixels that become infinite": (
        lambda s: rewrite(s, "affine", lambda v: v.__setitem__((3, 0, 0), 3e38)),
        "affine must be finite",
    ),
    "a difficulty above one": (
        lambda s: rewrite(s, "difficulty", lambda v: v.__setitem__(3, 1.5)),
        r"difficulties must lie in 0\.\.1",
    ),
}  # fmt: skip
CASES = {
    **{f"damaged: {name}": (*case, False) for name, case in DAMAGED.items()},
    **{f"hostile: {name}": (*case, True) for name, case in HOSTILE.items()},
}


@pytest.mark.parametrize(("damage", "message", "fits"), CASES.values(), ids=CASES.keys())
def test_it_is_refused_in_one_line(good, tmp_path, monkeypatch, capsys, damage, message, fits):
    bad = Path(shutil.copytree(good, tmp_path / "bad"))
    target = Path(shutil.copytree(good, tmp_path / "target"))
    damage(bad / "bank.zarr")
    if fits and (bad / "bank.zarr").is_dir():
        write_manifest(bad / "bank.zarr", bad / "manifest.json")
    before = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}

    arguments = ["hast", "bank", "merge", str(bad), "--out", str(target), "--overwrite"]
    monkeypatch.setattr(sys, "argv", arguments)
    tracemalloc.start()
    try:
        with pytest.raises(SystemExit) as stopped:
            main()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stopped.value.code == 2
    assert peak < MOST_MEMORY
    shown = capsys.readouterr()
    (line,) = shown.err.splitlines()
    assert line.startswith("error: hast: ")
    with pytest.raises(InputError, match=message):
        open_bank(bad)
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad", "target"]


def test_a_bank_for_another_teacher_is_refused_with_both_fingerprints(good):
    with pytest.raises(InputError, match=f"{TEACHER}.*{'b' * 64}"):
        open_bank(good, teacher="b" * 64)


@pytest.mark.parametrize(
    "other",
    [
        {"mean": (0.5, 0.5, 0.4)},
        {"std": (0.2, 0.2, 0.3)},
        {"num_classes": 6},
        {"input_shape": (3, 8, 9)},
    ],
)
def test_a_bank_for_another_spec_of_the_same_teacher_is_refused_with_both_values(
    good, tmp_path, monkeypatch, capsys, other
):
    ((name, value),) = other.items()
    spec = SPEC.model_copy(update=other)
    message = re.escape(f"made for {name} {getattr(SPEC, name)} but the teacher has {value}")
    with pytest.raises(InputError, match=message):
        open_bank(good, teacher=TEACHER, spec=spec)
    with pytest.raises(InputError, match=message):
        list(pull_bank(str(good), tmp_path / "bank", teacher=TEACHER, spec=spec))
    assert not (tmp_path / "bank").exists()

    card = TeacherCard(
        source="builtin:digits_resnet", source_args={}, spec=spec, fingerprint=TEACHER
    )
    save_with_card(tmp_path / "teacher", torch.nn.Linear(1, 1), card)
    arguments = ["hast", "bank", "verify", str(good), "--teacher", str(tmp_path / "teacher")]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line)


def test_names_of_classes_may_differ_from_those_of_the_teacher(good):
    named = SPEC.model_copy(update={"class_names": ("a", "b", "c", "d", "e")})
    assert len(open_bank(good, teacher=TEACHER, spec=named).images) == SAMPLES


@pytest.mark.parametrize("classes", [",", "", " , "])
def test_a_filter_by_no_class_is_refused(good, tmp_path, monkeypatch, capsys, classes):
    arguments = ["hast", "bank", "filter", str(good), str(tmp_path / "x"), "--classes", classes]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert "names none; leave --classes out to keep all" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_an_empty_bank_source_is_neither_none_nor_a_bank():
    with pytest.raises(InputError, match="source"):
        parse_section({"source": ""}, BankConfig, name="bank")


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floats_that_are_not_finite_are_refused(good, tmp_path, dtype):
    bank = open_bank(good)
    folder = tmp_path / "floats"
    card = bank.card.model_copy(update={"dtype": dtype})
    save_bank(bank._replace(images=bank.images.half().float(), card=card), folder)
    rewrite(folder / "bank.zarr", "images", lambda v: v.__setitem__((200, 0, 0, 0), np.inf))
    write_manifest(folder / "bank.zarr", folder / "manifest.json")
    with pytest.raises(InputError, match="images must be finite"):
        open_bank(folder)


def test_a_duplicate_is_found(good, tmp_path, monkeypatch, capsys):
    bank = open_bank(good)
    bank.images[7] = bank.images[3]
    save_bank(bank, tmp_path / "twins")
    monkeypatch.setattr(sys, "argv", ["hast", "bank", "verify", str(tmp_path / "twins")])
    with pytest.raises(SystemExit):
        main()
    assert "sample 7 is a duplicate of sample 3" in capsys.readouterr().err
