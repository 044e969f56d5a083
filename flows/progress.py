"""A progress bar in Prefect for every loop that prints how far it is."""

import re
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

_LINE = re.compile(r"(?P<label>[\w @.-]+): (?P<done>\d+)/(?P<total>\d+), (?P<rest>.*)")


class ProgressBars:
    """Artifacts of one task run, fed with its lines of output."""

    def __init__(self) -> None:
        self._bars: dict[str, UUID] = {}

    def read(self, line: str) -> None:
        """Move a bar where the line is one of `hast.engine.progress`, as `synthesize: 3/8, …`."""
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
