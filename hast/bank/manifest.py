"""The manifest of a store: the sha256 of every file, beside the store."""

import json
import re
from pathlib import Path, PurePosixPath

from hast.errors import InputError
from hast.files.placing import read_errors, sha256_of, write_atomically

MAX_BYTES = 64 << 20  # some 600,000 files
_SHA256 = re.compile(r"[0-9a-f]{64}")


def write_manifest(store: Path, manifest: Path) -> None:
    """Write the sha256 of every file of `store`."""
    content = json.dumps(_hashes(store), indent=2, sort_keys=True) + "\n"
    write_atomically(manifest, content.encode())


def verify_manifest(store: Path, manifest: Path) -> None:
    """Compare every file of `store` with the manifest.

    Raises:
        InputError: the manifest is missing or malformed, or a file is missing, changed or extra.
    """
    expected, found = read_manifest(manifest), _hashes(store)
    for what, names in (
        ("missing", expected.keys() - found.keys()),
        ("not in the manifest", found.keys() - expected.keys()),
        ("changed", {n for n in expected.keys() & found.keys() if expected[n] != found[n]}),
    ):
        if names:
            raise InputError(
                f"{store}: {len(names)} file(s) {what}, first {min(names)}; fetch or make it again"
            )


def read_manifest(manifest: Path) -> dict[str, str]:
    """The sha256 of each file by its name.

    Raises:
        InputError: the manifest is missing, malformed or huge, or a name leaves the store.
    """
    if manifest.is_symlink():
        raise InputError(f"{manifest}: a manifest must not be a link")
    with read_errors(manifest):
        if manifest.stat().st_size > MAX_BYTES:
            raise InputError(f"{manifest}: larger than {MAX_BYTES >> 20} MB; not a manifest")
        return parse_manifest(manifest.read_bytes(), name=str(manifest))


def parse_manifest(content: bytes, *, name: str) -> dict[str, str]:
    """As `read_manifest`, from the file's bytes."""
    with read_errors(name, ValueError, RecursionError):
        files = json.loads(content)
    if not isinstance(files, dict):
        raise InputError(f"{name}: must map file names to sha256 sums")
    for file, digest in files.items():
        if not _stays_inside(file):
            raise InputError(f"{name}: file name {file!r} leads out of the store")
        if not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
            raise InputError(f"{name}: {file!r} must have a sha256 sum, got {digest!r:.80}")
    return files


def listed_in(content: bytes) -> dict[str, str]:
    """As `parse_manifest`; nothing where the bytes are no manifest, or the beginning of one."""
    try:
        return parse_manifest(content, name="")
    except InputError:
        return {}


def _stays_inside(name: str) -> bool:
    plain = not any(c in name for c in "\\:\0") and PurePosixPath(name).as_posix() == name
    return plain and not {"", ".", ".."} & set(name.split("/"))


def _hashes(store: Path) -> dict[str, str]:
    files = sorted(p for p in store.rglob("*") if p.is_file())
    return {p.relative_to(store).as_posix(): sha256_of(p) for p in files}
