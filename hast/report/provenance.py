"""Where a run comes from, and what makes it again."""

from pathlib import Path
from typing import Any

import torch

from hast.config.recipes import recipe_of
from hast.engine.engine import select_device
from hast.engine.machine import changed_files, device_name, git, library_versions
from hast.report.record import Run


def provenance_of(run: Run) -> dict[str, Any]:
    """Facts about a run; those of machine and repository are the current ones."""
    threads = torch.get_num_threads()
    parameters = flattened(run.params)
    return {
        "commit": git("rev-parse", "HEAD", folder=Path.cwd()),  # of the project's Git repository
        "uncommitted": bool(changed_files(Path.cwd())),  # whether files differ from it
        "hardware": f"{device_name(select_device())}, {threads} thread{'s' * (threads != 1)}",
        "libraries": library_versions(),
        "recipe": recipe_of(run.params),
        "parameters": parameters,
        "seeds": {n.removesuffix(".seed"): v for n, v in parameters if n.endswith(".seed")},
    }


def flattened(values: Any, name: str = "") -> list[tuple[str, str]]:
    """Nested parameters as dotted names and texts."""
    if not isinstance(values, dict) or not values:
        return [(name, str(values))]
    return [
        pair
        for key, value in values.items()
        for pair in flattened(value, f"{name}.{key}" if name else str(key))
    ]
