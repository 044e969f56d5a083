"""inputs: fingerprint what DVC cannot see: files that parameters name, and the code of each stage.

Runs each time. Its outputs stay the same while the files and the code do, and then nothing is
rebuilt. As the first stage it checks all parameters, and that the test images can be opened, before
any work.
"""

import hashlib
import importlib.util
from pathlib import Path

from hast.config.bank import BankConfig
from hast.config.dataset import DatasetConfig
from hast.config.params import check_params
from hast.config.teacher import TeacherConfig
from hast.errors import InputError
from hast.files.code import code_fingerprint, stage_names
from hast.files.datasets import class_folders
from hast.files.placing import sha256_of
from hast.files.tables import write_json
from hast.files.weights import is_checkpoint
from hast.stages.entry import PARAMS, Out, main, section


def run(*, teacher: Out, dataset: Out, bank: Out, stages: Out) -> None:
    """Write the hashes of the teacher's files to TEACHER, of the test images to DATASET, of a bank
    that others made, or of pictures, to BANK, and of each stage's code to a file in STAGES."""
    # First, for DVC has removed them, and they stand whatever the parameters say.
    for stage in stage_names():
        if stage != "inputs":  # runs anyway
            write_json(stages / f"{stage}.json", {"code": code_fingerprint(f"hast.stages.{stage}")})
    check_params(PARAMS)
    config = section("teacher", TeacherConfig)
    named = config.weights
    weights = _sha256(Path(named)) if named and is_checkpoint(named) else None
    write_json(teacher, {"weights": weights, "factory": _factory(config.source)})
    images = section("dataset", DatasetConfig)
    if images.name == "folder":
        class_folders(images, "test")
    write_json(dataset, {"test": _listing(images.root / "test") if images.root else None})
    source = section("bank", BankConfig).source
    write_json(bank, _bank(source) if source else {"manifest": None, "pictures": None})


def _bank(source: str) -> dict[str, str | None]:
    from hast.bank.transfer import source_digests  # with Zarr; most runs do without

    return source_digests(source)


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    return sha256_of(path)


def _factory(source: str) -> str | None:
    """Hash of the module that holds a python factory; what it imports is not followed."""
    kind, _, name = source.partition(":")
    if kind != "python":
        return None
    try:
        found = importlib.util.find_spec(name.partition(":")[0])
    except (ImportError, ValueError):
        found = None  # the stage `teacher` says what is wrong with the source
    return _sha256(Path(found.origin)) if found and found.has_location and found.origin else None


def _listing(folder: Path) -> str:
    """Hash of the names and sizes of all files; reading every image would take too long."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


if __name__ == "__main__":
    main(run)
