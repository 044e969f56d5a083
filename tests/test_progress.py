import io
import sys
from typing import NamedTuple

import pytest

from hast.engine.progress import track


class Record(NamedTuple):
    loss: float


def records(n: int):
    return (Record(loss=float(i)) for i in range(n))


def test_records_pass_through_and_the_last_one_is_shown(capsys):
    assert [*track(records(3), total=3, label="quantize", fields=("loss",))] == [*records(3)]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("quantize: 3/3")
    assert lines[0].endswith("loss=2")


def test_what_an_earlier_run_finished_counts(capsys):
    list(track(records(2), total=5, label="synthesize", done=3))
    assert "synthesize: 5/5" in capsys.readouterr().err


def test_lines_come_at_intervals_and_say_how_long_it_will_take(capsys, monkeypatch):
    now = iter(range(0, 1000, 4))
    monkeypatch.setattr("hast.engine.progress.time.monotonic", lambda: float(next(now)))
    list(track(records(10), total=10, label="x"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0] == "x: 3/10, 0.2/s, 28 s left"


@pytest.mark.parametrize("n", [0, 4])
def test_a_terminal_gets_a_bar(monkeypatch, n):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert len([*track(records(n), total=4, label="synthesize", fields=("loss",))]) == n
    assert "synthesize" in terminal.getvalue()
    if n:
        assert "4/4" in terminal.getvalue()
        assert "loss=3" in terminal.getvalue()
        assert "/s" in terminal.getvalue()


def test_a_quiet_environment_hides_it(capsys, monkeypatch):
    monkeypatch.setenv("HAST_QUIET", "1")
    assert [*track(records(3), total=3, label="quantize")] == [*records(3)]
    assert capsys.readouterr().err == ""
