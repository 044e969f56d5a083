"""Where a run comes from, and what makes it again."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from hast.config.recipes import recipe_of
from hast.engine.engine import select_device
from hast.engine.machine import commit, device_name, is_changed, library_versions
from hast.report.record import Run


class Provenance(NamedTuple):
    commit: str | None  # of the project's Git repository
    uncommitted: bool  # whether files differ from it
    hardware: str  # of the machine that made the report
    libraries: dict[str, str]
    seeds: dict[str, int]  # by section of params.yaml
    recipe: str  # the nearest, and what is not as it says
    parameters: list[tuple[str, str]]  # dotted name and value
    command: str


def provenance_of(run: Run) -> Provenance:
    """Facts about a run; those of machine and repository are the current ones."""
    threads = torch.get_num_threads()
    return Provenance(
        commit=commit(Path.cwd()),
        uncommitted=is_changed(Path.cwd()),
        hardware=f"{device_name(select_device())}, {threads} thread{'s' * (threads != 1)}",
        libraries=library_versions(),
        seeds=dict(_seeds(run.params)),
        recipe=recipe_of(run.params),
        parameters=flattened(run.params),
        command="dvc repro",
    )


def flattened(values: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested parameters as dotted names and texts."""
    if not isinstance(values, dict) or not values:
        return [(name, str(values))]
    return [
        pair
        for key, value in values.items()
        for pair in flattened(value, f"{name}.{key}" if name else str(key))
    ]


def _seeds(params: dict[str, Any]) -> list[tuple[str, int]]:
    return [
        (name.removesuffix(".seed"), int(value))
        for name, value in flattened(params)
        if name.endswith(".seed")
    ]
