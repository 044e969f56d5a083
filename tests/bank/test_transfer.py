"""Push and pull against a real folder and a real S3 server on loopback."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from banks import noise_bank
from conftest import cli, files, refused, started, wait_for

from hast.bank import remote
from hast.bank.tools import filter_bank, save_bank
from hast.bank.transfer import fetch_shard, pull_bank, push_bank, send_shard
from hast.bank.writer import BankWriter

SHAPE = (3, 16, 16)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(remote, "_WAITS", (0.01, 0.01))


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bank") / "bank"
    save_bank(noise_bank(3000, SHAPE), folder)
    return folder


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    """An S3 server with the bucket `banks`."""
    pytest.importorskip("moto", reason="the S3 server of the tests is not installed")
    boto3 = pytest.importorskip("boto3")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with pytest.MonkeyPatch.context() as patch, started(*command, **quiet) as server:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        try:
            wait_for(lambda: answers(port), 60)
            boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="banks")
            yield
        finally:
            server.terminate()


def answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path) -> str:
    """A URL where nothing is yet."""
    if request.param == "folder":
        return str(tmp_path / "far/bank")
    request.getfixturevalue("s3")
    return f"s3://banks/{tmp_path.name}"


def run(carried) -> list[str]:
    return [*carried]


def test_what_was_pushed_is_pulled_byte_for_byte(bank, place, tmp_path):
    run(push_bank(bank, place))
    run(pull_bank(place, tmp_path / "back"))
    assert files(tmp_path / "back") == files(bank)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "far") == ["back"]
    run(push_bank(bank, place))  # verifies what is there


def calls_of(monkeypatch, method: str) -> list[str]:
    """Names of the files that a method of `Remote` is called with from now on."""
    names, original = [], getattr(remote.Remote, method)

    def counting(self, name, *arguments):
        names.append(name)
        return original(self, name, *arguments)

    monkeypatch.setattr(remote.Remote, method, counting)
    return names


def test_an_interrupted_pull_fetches_what_is_missing_or_wrong(bank, place, tmp_path, monkeypatch):
    whole = run(push_bank(bank, place))
    carried = pull_bank(place, tmp_path / "back")
    taken = [next(carried) for _ in range(4)]
    carried.close()
    assert not (tmp_path / "back").exists()
    (side,) = (p for p in tmp_path.iterdir() if ".pull-" in p.name)
    (side / "bank.zarr" / taken[0]).write_bytes(b"cut short")
    fetched = calls_of(monkeypatch, "download")
    assert run(pull_bank(place, tmp_path / "back")) == whole
    assert fetched == [f"bank.zarr/{name}" for name in [taken[0], *whole[4:]]]
    assert files(tmp_path / "back") == files(bank)


def test_an_interrupted_push_is_no_bank_and_goes_on(bank, place, tmp_path, monkeypatch):
    carried = push_bank(bank, place)
    done = [next(carried) for _ in range(4)]
    carried.close()
    with refused("there is no bank, or its push has not ended"):
        run(pull_bank(place, tmp_path / "back"))
    made = calls_of(monkeypatch, "_make_folder_of")  # before a file is sent
    whole = run(push_bank(bank, place))
    assert made == [f"bank.zarr/{name}" for name in whole if name not in done] + ["manifest.json"]
    run(pull_bank(place, tmp_path / "back"))
    assert files(tmp_path / "back") == files(bank)


def test_another_bank_at_the_far_end_is_replaced_only_when_asked(bank, place, tmp_path):
    filter_bank(bank, tmp_path / "other", count=70)
    run(push_bank(bank, place))
    with refused(r"holds another bank, or files of one|is there already"):
        run(push_bank(tmp_path / "other", place))
    run(push_bank(tmp_path / "other", place, overwrite=True))
    run(pull_bank(place, tmp_path / "back"))
    assert files(tmp_path / "back") == files(tmp_path / "other")


def test_a_push_that_replaces_a_bank_in_a_folder_leaves_it_whole_until_the_end(bank, tmp_path):
    far = tmp_path / "far"
    filter_bank(bank, far, count=70)
    before = files(far)
    blocks = push_bank(bank, f"file://{far}", overwrite=True)
    for _ in range(5):
        next(blocks)
    blocks.close()
    assert files(far) == before
    run(push_bank(bank, f"file://{far}", overwrite=True))
    assert files(far) == files(bank)
    assert [path.name for path in tmp_path.iterdir()] == ["far"]


def test_a_push_into_an_empty_folder_needs_no_leave(bank, tmp_path):
    (tmp_path / "far").mkdir()
    run(push_bank(bank, str(tmp_path / "far")))
    assert files(tmp_path / "far") == files(bank)


@pytest.mark.parametrize("content", [b'{"name": "my site"}', b"{}", b"<html>"])
def test_a_manifest_of_something_else_in_a_bucket_is_never_replaced(bank, s3, tmp_path, content):
    url = f"s3://banks/{tmp_path.name}"
    far = remote.Remote(url)
    far.write("manifest.json", content)
    with refused(r"its manifest.json is no bank's; only a bank is over"):
        run(push_bank(bank, url, overwrite=True))
    assert far.read("manifest.json") == content
    assert far.names("") == ["manifest.json"]


def test_a_bank_that_is_there_is_not_overwritten_by_a_pull(bank, tmp_path):
    run(push_bank(bank, str(tmp_path / "far")))
    filter_bank(bank, tmp_path / "mine", count=70)
    before = files(tmp_path / "mine")
    with refused("is there already and is not overwritten"):
        run(pull_bank(str(tmp_path / "far"), tmp_path / "mine"))
    assert files(tmp_path / "mine") == before
    run(pull_bank(str(tmp_path / "far"), tmp_path / "mine", overwrite=True))
    assert files(tmp_path / "mine") == files(bank)
    with refused("is no bank; only a bank is overwritten"):
        run(pull_bank(str(tmp_path / "far"), tmp_path, overwrite=True))


def test_a_file_that_is_damaged_at_the_far_end_is_named_and_nothing_is_placed(bank, tmp_path):
    run(push_bank(bank, str(tmp_path / "far")))
    shard = tmp_path / "far/bank.zarr/images/c/1/0/0/0"
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with refused(r"images/c/1/0/0/0: differs from its hash"):
        run(pull_bank(str(tmp_path / "far"), tmp_path / "back"))
    assert not (tmp_path / "back").exists()
    # A push of the same bank mends it.
    run(push_bank(bank, str(tmp_path / "far")))
    run(pull_bank(str(tmp_path / "far"), tmp_path / "back"))


def test_a_manifest_that_leads_out_of_the_bank_writes_nothing(bank, tmp_path):
    far = Path(shutil.copytree(bank, tmp_path / "far"))
    (far / "manifest.json").write_text('{"../../stolen": "' + "0" * 64 + '"}')
    with refused("leads out of the store"):
        run(pull_bank(str(far), tmp_path / "back"))
    assert [p.name for p in tmp_path.iterdir()] == ["far"]


def test_a_shard_that_was_sent_is_fetched_whole_or_not_at_all(place, tmp_path):
    bank = noise_bank(64, SHAPE)
    here, there = (BankWriter(tmp_path / name, bank.card, 16) for name in ("here", "there"))
    shard = here.shards()[1]
    here.write(shard, bank.images[shard], bank.labels[shard])
    assert not fetch_shard(there, shard, place)
    send_shard(here, shard, place)
    far = remote.Remote(f"{place}/shard-16")
    listed = far.read("manifest.json")
    far.write("manifest.json", listed[:-1])  # its worker was killed
    assert not fetch_shard(there, shard, place)
    send_shard(here, shard, place)  # by the worker that replaces it
    assert fetch_shard(there, shard, place)
    assert there.is_finished(shard)
    assert files(there.folder) == files(here.folder)

    far.write("done/1.safetensors", b"damaged")
    with refused(r"shard-16/done/1.safetensors: differs from its hash"):
        fetch_shard(there, shard, place)
    far.clear()
    assert not fetch_shard(there, shard, place)


def test_a_bank_for_another_teacher_is_not_placed(bank, tmp_path):
    run(push_bank(bank, str(tmp_path / "far")))
    with refused(r"made for teacher a{64} but the teacher is b{64}"):
        run(pull_bank(str(tmp_path / "far"), tmp_path / "back", teacher="b" * 64))
    assert [p.name for p in tmp_path.iterdir()] == ["far"]


def test_a_passing_fault_is_tried_again_and_a_lasting_one_is_said(bank, tmp_path, monkeypatch):
    run(push_bank(bank, str(tmp_path / "far")))
    from fsspec.implementations.local import LocalFileSystem

    original, faults = LocalFileSystem.get_file, iter(range(10**6))

    def flaky(self, *arguments, **options):
        if next(faults) % 2 == 0:
            raise TimeoutError("the line is slow")
        return original(self, *arguments, **options)

    monkeypatch.setattr(LocalFileSystem, "get_file", flaky)
    run(pull_bank(str(tmp_path / "far"), tmp_path / "back"))
    assert files(tmp_path / "back") == files(bank)

    def dead(self, *arguments, **options):
        raise TimeoutError("the line is dead")

    monkeypatch.setattr(LocalFileSystem, "get_file", dead)
    with refused("the line is dead; what was carried is kept"):
        run(pull_bank(str(tmp_path / "far"), tmp_path / "again"))


@pytest.mark.parametrize(
    ("url", "message"),
    [("nowhere://x", "cannot be opened .*nowhere"), ("s3://no-such-bucket/x", "no-such-bucket/x")],
)
def test_a_url_that_cannot_be_used_ends_in_one_line(request, bank, url, message):
    if url.startswith("s3"):
        request.getfixturevalue("s3")
    with refused(message):
        run(push_bank(bank, url))


def test_the_command_line_carries_a_bank_to_s3_and_back(bank, s3, tmp_path):
    def bank_command(*arguments: str) -> str:
        done = cli("bank", *arguments)
        return done.stdout + done.stderr

    assert "good, verified at the far end" in bank_command("push", str(bank), "s3://banks/cli")
    shown = bank_command("pull", "s3://banks/cli", str(tmp_path / "back"))
    assert "good, 3000 samples" in shown
    assert "pull: " in shown
    assert files(tmp_path / "back") == files(bank)
