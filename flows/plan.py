"""What a flow has to know about the project: its stages, from dvc.yaml and from themselves, and
whether it has a remote."""

import importlib
import inspect
import re
from collections.abc import Sequence
from typing import NamedTuple

import networkx as nx
from dvc.exceptions import DvcException
from dvc.repo import Repo

from hast.errors import InputError


class Stage(NamedTuple):
    """One stage, or one item of its matrix."""

    name: str  # as DVC addresses it, such as quantize@w4a4
    needs: tuple[str, ...]  # stages that make what it reads
    params: tuple[str, ...]  # sections of params.yaml
    computes: bool  # on a device, a GPU where there is one
    is_target: bool  # asked for, not only needed

    @property
    def item(self) -> str | None:
        """Its place in a matrix, such as w4a4."""
        return self.name.partition("@")[2] or None


def stages_in_order(targets: Sequence[str] = ()) -> list[Stage]:
    """The stages of the current folder's project, dependencies first.

    Args:
        targets: names of stages, with or without a matrix item; what they need comes along. No
            target is the whole pipeline.

    Raises:
        InputError: there is no such stage, or DVC cannot read the project.
    """
    if not all(target.strip() for target in targets):
        # DVC takes an empty name for all stages.
        raise InputError(
            f"targets: each must name a stage, got {list(targets)}; give no target for all stages"
        )
    try:
        with Repo() as repo:
            # An edge points from a stage to what it depends on.
            graph = repo.index.graph
            asked = {s for target in targets for s in repo.stage.collect(target)} or set(graph)
            wanted = asked | {below for stage in asked for below in nx.descendants(graph, stage)}
            # What `dvc import` and `dvc add` bring has no command, and is there.
            order = [s for s in nx.dfs_postorder_nodes(graph) if s in wanted and s.cmd]
            return [
                Stage(
                    name=stage.addressing,
                    needs=tuple(sorted(b.addressing for b in graph.successors(stage) if b.cmd)),
                    params=tuple(sorted(p for dep in stage.params for p in dep.params)),
                    computes=_computes(stage.cmd),
                    is_target=stage in asked,
                )
                for stage in order
            ]
    except DvcException as error:
        raise InputError(str(error)) from None


def has_remote() -> bool:
    """Whether the project shares what it makes: it has a default remote."""
    with Repo() as repo:
        return bool(repo.config["core"].get("remote"))


def _computes(command: str) -> bool:
    """Whether the stage can be told on which device to run."""
    found = re.match(r"sh stage\.sh (\w+)", command)
    if not found:
        return False
    stage = importlib.import_module(f"hast.stages.{found[1]}")
    return "device" in inspect.signature(stage.run).parameters
