"""report: one results table of all bit widths."""

from typing import Any

from hast.bit_width import load_bit_widths
from hast.storage.tables import read_json, write_json, write_tsv
from hast.summary import markdown_table
from stages.entry import PARAMS, In, Out, Params, main


def run(*, evaluations: In, out: Out, params: Params = PARAMS) -> None:
    """Write results.json, results.md and accuracy.tsv to OUT."""
    results: dict[str, Any] = {}
    for width in load_bit_widths(params):
        measured = read_json(evaluations / f"{width}.json")
        results["fp32"] = measured["teacher"]
        results[str(width)] = measured["student"] | {
            "top1_before_finetuning": measured["calibrated"]["top1"]
        }

    write_json(out / "results.json", results)
    (out / "results.md").write_text(markdown_table(results))
    write_tsv(
        out / "accuracy.tsv",
        ("network", "top1", "agreement"),
        ((name, row["top1"], row["agreement"]) for name, row in results.items()),
    )


if __name__ == "__main__":
    main(run)
