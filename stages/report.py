"""report: one results table of all bit widths, and one page that shows the run."""

from hast.files.tables import write_json, write_tsv
from hast.report.page import render
from hast.report.record import read_run, results_of
from hast.report.tables import EXPORT_COLUMNS, export_rows, markdown_rows, markdown_table
from hast.stages.entry import PARAMS, In, Out, main


def run(*, artifacts: In, metrics: In, plots: In, out: Out) -> None:
    """Write the page index.html, and the results in forms for programs, to OUT."""
    finished = read_run(PARAMS, artifacts=artifacts, metrics=metrics, plots=plots)
    results = results_of(finished.widths)

    write_json(out / "results.json", results)
    for name, row in results.items():
        write_json(out / "networks" / f"{name}.json", row)
    (out / "results.md").write_text(markdown_table(results))
    exports = [EXPORT_COLUMNS, *export_rows(finished.exports)]
    (out / "exports.md").write_text(markdown_rows(exports, left=2))
    rows = ((name, row.get("top1", ""), row.get("agreement", "")) for name, row in results.items())
    write_tsv(out / "accuracy.tsv", ("network", "top1", "agreement"), rows)
    (out / "index.html").write_text(render(finished, results), encoding="utf-8")


if __name__ == "__main__":
    main(run)
