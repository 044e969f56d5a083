"""What a run leaves in Prefect to look at: results, their history, samples, difficulty, report."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort

from hast.bank.stored import StoredBank
from hast.files.hardness import load_hardness
from hast.files.tables import read_json
from hast.report.tables import RESULT_COLUMNS, markdown_rows, result_rows

Rows = Sequence[Mapping[str, str]]  # cells of the results table by column

_REPORT = Path("report")
_RUNS_SHOWN = 20
_RESULTS = "results"  # key of the table in which the history is kept


def publish(stage: str) -> None:
    """Create the artifacts of a stage that is up to date, from the files that are here."""
    name, _, item = stage.partition("@")
    if name == "score":
        _difficulty(item)
    elif name == "report":
        _results()


def _difficulty(item: str) -> None:
    """The bank's samples by class and difficulty, and how hard they are for both networks."""
    from hast.report.figures.samples import bank_grid, difficulty_histogram

    folder, store = Path("artifacts/bank"), Path(f"artifacts/hardness/{item}.safetensors")
    if not folder.is_dir() or not store.is_file():
        return
    bank = StoredBank(folder)
    series = {
        "teacher": bank.difficulty,
        f"{item.upper()} student before fine-tuning": load_hardness(store, bank=bank.card.key()),
    }
    create_markdown_artifact(
        f"# Samples of the bank\n\nBy class, from easy to hard; below each 1 - p(label) under the"
        f" teacher.\n\n{_inline(bank_grid(bank), 'samples')}",
        key="samples",
    )
    create_markdown_artifact(
        f"# Difficulty of the samples, {item.upper()}\n\n"
        f"{_inline(difficulty_histogram(series), 'difficulty histogram')}",
        key=f"difficulty-{item}",
    )


def _results() -> None:
    results = _REPORT / "results.json"
    if not results.is_file():
        return
    measured = read_json(results)
    rows = [dict(zip(RESULT_COLUMNS, row, strict=True)) for row in result_rows(measured)]
    history = [*_earlier_results(), ("this run", rows)]
    create_table_artifact(rows, key=_RESULTS, description="Accuracy and size of every network")
    create_markdown_artifact(_history_page(history), key="accuracy-history")
    create_link_artifact(_report_url(), link_text="Report of the latest run", key="report")


def _earlier_results() -> Iterable[tuple[str, Rows]]:
    """When it was and what was measured, of the last runs, the oldest first."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[_RESULTS])),
            sort=ArtifactSort.CREATED_DESC,
            limit=_RUNS_SHOWN,
        )
    for artifact in reversed(found):
        yield f"{artifact.created:%Y-%m-%d %H:%M}", json.loads(str(artifact.data))


def _history_page(history: Sequence[tuple[str, Rows]]) -> str:
    name, top1 = RESULT_COLUMNS[:2]
    runs = [(when, {row[name]: row[top1] for row in rows}) for when, rows in reversed(history)]
    networks = list(dict.fromkeys(network for _, cells in runs for network in cells))
    cells_of = [[when, *(cells.get(network, "") for network in networks)] for when, cells in runs]
    table = markdown_rows([["run", *networks], *cells_of])
    return f"# Top-1 of the last runs\n\n{table}"


def _inline(figure: Any, title: str) -> str:
    """Markdown of a picture that needs no file: Prefect shows none of a worker's."""
    from hast.report.figures.canvas import to_data_uri, to_png

    return f"![{title}]({to_data_uri(to_png(figure))})"


def _report_url() -> str:
    """Where a browser finds the report: HAST_REPORT_URL is where report/ is published."""
    page = next((n for n in ("index.html", "results.md") if (_REPORT / n).is_file()), "results.md")
    base = os.environ.get("HAST_REPORT_URL")
    return f"{base.rstrip('/')}/{page}" if base else (_REPORT / page).resolve().as_uri()
