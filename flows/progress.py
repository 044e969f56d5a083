"""A progress bar in Prefect for every loop that prints how far it is."""

import re
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, update_progress_artifact

_LINE = re.compile(r"(?P<label>[\w @.-]+): (?P<done>\d+)/(?P<total>\d+), (?P<rest>.*)")


class Output:
    """The lines of output of one task run: in its log, and as bars of their progress."""

    def __init__(self) -> None:
        self._bars: dict[str, UUID] = {}
        self._logger = get_run_logger()

    def show(self, line: str) -> None:
        """Log a line, and move a bar where it is one of a loop, such as `synthesize: 3/8, …`."""
        if line:
            self._logger.info(line)
            self._move(line)

    def _move(self, line: str) -> None:
        found = _LINE.fullmatch(line)
        if not found:
            return
        label, percent = found["label"], 100 * int(found["done"]) / int(found["total"])
        text = f"{label}: {found['done']} of {found['total']}, {found['rest']}"
        if label in self._bars:
            update_progress_artifact(self._bars[label], percent, description=text)
        else:
            key = "progress-" + re.sub("[^a-z0-9]+", "-", label.lower()).strip("-")
            bar = create_progress_artifact(percent, key=key, description=text)
            assert isinstance(bar, UUID)  # a coroutine only in an asynchronous task
            self._bars[label] = bar
