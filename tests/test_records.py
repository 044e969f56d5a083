"""What is known of a DVC command after its end, without reading what it printed."""

from pathlib import Path

import pytest
from conftest import dvc, git, python
from dvc.exceptions import DownloadError, DvcException
from dvc.lock import LockError
from requests import exceptions as requests

from hast.engine.progress import RECORD, track
from hast.flows.dvc_command import passes
from hast.flows.records import progress_reader, read_record


@pytest.fixture
def record(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "record").mkdir()
    monkeypatch.setenv(RECORD, str(tmp_path / "record"))
    return tmp_path / "record"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", (False, False)),
        ("started\n", (True, False)),
        ("started\nfailed 2\n", (True, False)),
        ("started\nfailed 75\n", (True, True)),
        ("started\nstarted\nfailed -9\n", (True, True)),
        ("passes\n", (False, True)),
        ("started\nfailed ", (True, False)),
    ],
)
def test_what_ran_and_what_may_pass_is_read_from_the_lines(lines, expected, record):
    (record / "stages").write_text(lines)
    assert read_record(record) == expected


@pytest.mark.parametrize(
    ("command", "expected"),
    [("true", (True, False)), ("exit 75", (True, True)), ("exit 3", (True, False)),
     ("kill -9 $$", (True, True))],
)  # fmt: skip
def test_any_stage_of_dvc_is_noted_with_its_end(command, expected, record, tmp_path):
    git(tmp_path, "init", "-q")
    dvc(tmp_path, "init", "-q")
    own = f"{{cmd: 'touch made; {command}', outs: [made]}}"
    (tmp_path / "dvc.yaml").write_text(f"stages: {{own: {own}}}")
    repro = ("-m", "hast.flows.dvc_command", "repro", "own")
    done = python(*repro, code=None)
    assert read_record(record) == expected
    assert (done.returncode == 0) == (command == "true")
    (record / "stages").unlink()
    python(*repro, code=None)
    assert read_record(record).ran == (command != "true")


def test_the_steps_of_a_loop_reach_who_shows_them_once(record):
    news = progress_reader(record)
    assert news() == []
    for _ in track(range(3), total=3, label="work"):
        pass
    ((label, done, total, rest),) = news()
    assert (label, done, total) == ("work", 3, 3)
    assert "s left" in rest
    assert news() == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LockError("held"), True),
        (DownloadError(3), True),
        (requests.ConnectTimeout(), True),
        (ConnectionResetError(), True),
        (TimeoutError(), True),
        (DvcException("no such stage"), False),
        (PermissionError(), False),
    ],
)
def test_locks_that_are_held_and_stores_that_are_away_may_pass(error, expected):
    assert passes(error) == expected


def test_the_kind_of_an_error_inside_dvc_reaches_the_record(record, tmp_path):
    git(tmp_path, "init", "-q")
    dvc(tmp_path, "init", "-q")
    (tmp_path / "data").write_text("some")
    dvc(tmp_path, "add", "data")
    dvc(tmp_path, "remote", "add", "-d", "away", "http://127.0.0.1:9/store")
    command = ["-m", "hast.flows.dvc_command"]
    for arguments, expected in ((["push"], True), (["repro", "nothing"], False)):
        (record / "stages").unlink(missing_ok=True)
        assert python(*command, *arguments, code=None).returncode
        assert read_record(record).may_pass is expected
