"""Push a bank to a URL and pull one from there: file by file, the manifest last.

A bank without a manifest is not finished: nobody takes it for whole. A transfer that is run again
carries the files that are missing or wrong. Shards of an unfinished bank, which machines write for
each other, travel in the same way, each with a manifest of its own:

<store>/bank-<name>/shard-<first sample>/…, manifest.json
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from hast.bank.manifest import MAX_BYTES, listed_in, parse_manifest, read_manifest
from hast.bank.place import check_free, place_bank
from hast.bank.remote import Remote
from hast.bank.stored import MANIFEST, STORE, StoredBank
from hast.bank.writer import BankWriter
from hast.config.spec import ModelSpec
from hast.errors import InputError
from hast.files.pictures import digest_of, pictures_in
from hast.files.placing import disk_errors, sha256_of, write_atomically


def push_bank(folder: Path, url: str, *, overwrite: bool = False) -> Iterator[str]:
    """Send a bank to `url` and read it back there.

    Yields:
        Each file that was verified at the far end, by name.

    Raises:
        InputError: the bank is damaged, `url` holds something else, or the transfer keeps failing.
    """
    StoredBank(folder)
    content, files = (folder / MANIFEST).read_bytes(), read_manifest(folder / MANIFEST)
    remote = Remote(url)
    is_there = remote_manifest(remote) == content and not _strange(remote, files)
    target = remote.folder
    if is_there or target is None:
        if not is_there:
            _make_room(remote, files, overwrite=overwrite)
        yield from _send(folder, remote)  # of what is there, only what is damaged
        return
    # Beside it first, so that what is there is kept until the new bank is whole.
    check_free(target, overwrite=overwrite)
    side = _side_of(target, content, "push")
    yield from _send(folder, Remote(str(side)))
    place_bank(side, target, overwrite=overwrite, move=True)


def pull_bank(
    url: str,
    folder: Path,
    *,
    teacher: str | None = None,
    spec: ModelSpec | None = None,
    overwrite: bool = False,
) -> Iterator[str]:
    """Fetch the bank at `url`, verify it and put it at `folder`.

    Args:
        url: any that fsspec knows.
        folder: where the bank shall be.
        teacher: the fingerprint it must have been made for, if any.
        spec: what that teacher expects and answers, if the bank must agree.
        overwrite: another bank may be at `folder`.

    Yields:
        Each file of the bank as it is there, by name.

    Raises:
        InputError: there is no bank at `url`, it is damaged, it does not fit on the disk, or
            something is at `folder`. What was there is kept.
    """
    check_free(folder, overwrite=overwrite)
    remote = Remote(url)
    content = remote_manifest(remote)
    if content is None:
        raise InputError(f"{url}: no {MANIFEST}; there is no bank, or its push has not ended")
    files = parse_manifest(content, name=f"{url}/{MANIFEST}")
    side = _side_of(folder, content, "pull")
    for name, digest in files.items():
        target = side / STORE / name
        if not (target.is_file() and sha256_of(target) == digest):
            remote.download(f"{STORE}/{name}", target, digest)
        yield name
    write_atomically(side / MANIFEST, content)
    try:
        StoredBank(side, teacher=teacher, spec=spec)
    except InputError as error:
        shutil.rmtree(side, ignore_errors=True)
        raise InputError(str(error).replace(str(side), url)) from None
    place_bank(side, folder, overwrite=overwrite, move=True)


def send_shard(writer: BankWriter, shard: slice, store: str) -> None:
    """Put a finished shard where other machines find it, and read it back there.

    Raises:
        InputError: the transfer keeps failing.
    """
    remote = Remote(f"{store}/shard-{shard.start}")
    files = {name: sha256_of(writer.folder / name) for name in writer.shard_files(shard)}
    for name, digest in files.items():
        remote.upload(name, writer.folder / name, digest)
    remote.write(MANIFEST, json.dumps(files).encode())


def fetch_shard(writer: BankWriter, shard: slice, store: str) -> bool:
    """Copy a shard into an unfinished bank; False where the store has not all of it.

    Raises:
        InputError: what arrives is not what was sent.
    """
    remote = Remote(f"{store}/shard-{shard.start}")
    # Half of one may be there, where a worker was killed: no beginning of JSON is JSON.
    files = listed_in(remote_manifest(remote) or b"")
    if not files:
        return False
    for name in writer.shard_files(shard):  # no others, whatever is listed there
        remote.download(name, writer.folder / name, files.get(name, ""))
    return True


def shards_in(store: str, writer: BankWriter) -> list[slice]:
    """The shards of which something is in a store and nothing whole here, by one question."""
    there = {name.partition("/")[0] for name in Remote(store).names("")}
    return [shard for shard in writer.missing_shards() if f"shard-{shard.start}" in there]


def source_digests(source: str) -> dict[str, str | None]:
    """What changes when the bank at a folder or URL does, or when the pictures in a folder do:
    sha256 of its `manifest`, or of the `pictures`.

    Raises:
        InputError: there are neither.
    """
    content = remote_manifest(Remote(source))
    if content is not None:
        return {"manifest": hashlib.sha256(content).hexdigest(), "pictures": None}
    pictures = pictures_in(Path(source))
    if not pictures:
        raise InputError(
            f"bank.source: {source} holds no {MANIFEST} and no pictures; fetch the bank"
            " (`dvc pull`, `dvc import`, `hast bank pull`), or mend the name"
        )
    return {"manifest": None, "pictures": digest_of(pictures)}


def remote_manifest(remote: Remote) -> bytes | None:
    """The bytes of the manifest; None where there is none.

    Raises:
        InputError: it is too large for a manifest.
    """
    size = remote.size(MANIFEST)
    if size is not None and size > MAX_BYTES:
        raise InputError(f"{remote.url}/{MANIFEST}: {size} bytes are too many for a manifest")
    return None if size is None else remote.read(MANIFEST)


def files_at(place: Path | str) -> int:
    """How many files a push of the bank in a folder, or a pull of one at a URL, yields."""
    remote = Remote(str(place))
    return len(parse_manifest(remote_manifest(remote) or b"{}", name=f"{place}/{MANIFEST}"))


def _send(folder: Path, remote: Remote) -> Iterator[str]:
    """Send every file that is not there yet, the manifest last."""
    for name, digest in read_manifest(folder / MANIFEST).items():
        remote.upload(f"{STORE}/{name}", folder / STORE / name, digest)
        yield name
    remote.upload(MANIFEST, folder / MANIFEST, sha256_of(folder / MANIFEST))


def _strange(remote: Remote, files: dict[str, str]) -> list[str]:
    """Files of a store there that belong to another bank."""
    return [name for name in remote.names(STORE) if name.removeprefix(f"{STORE}/") not in files]


def _make_room(remote: Remote, files: dict[str, str], *, overwrite: bool) -> None:
    """Refuse to write over another bank, or take its manifest away first: where nothing can be
    renamed as a whole, it must not pass for one while its files change."""
    there, strange = remote_manifest(remote), _strange(remote, files)
    if (there is not None or strange) and not overwrite:
        raise InputError(
            f"{remote.url}: holds another bank, or files of one; name another place or give"
            " --overwrite"
        )
    if there is not None:
        if not listed_in(there):
            raise InputError(
                f"{remote.url}: its {MANIFEST} is no bank's; only a bank is overwritten by a bank"
            )
        remote.remove(MANIFEST)
    for name in strange:
        remote.remove(name)


def _side_of(folder: Path, content: bytes, what: str) -> Path:
    """Where files are gathered until all are there; the same again for the same bank."""
    side = folder.parent / f".{folder.name}.{what}-{hashlib.sha256(content).hexdigest()[:16]}"
    with disk_errors(folder):
        side.mkdir(parents=True, exist_ok=True)
    return side
