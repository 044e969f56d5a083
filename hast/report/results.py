"""A run in numbers: what `report/results.json` holds and the page says first."""

from typing import Any

from hast.math.intervals import paired_drop
from hast.report.record import Width

_MEASURES = ("top1", "top5", "agreement", "size_bytes", "samples")
COVERED = ("low_bit_weights", "low_bit_multiply_adds")  # shares, see `hast.networks.coverage`


def results_of(widths: list[Width]) -> dict[str, dict[str, Any]]:
    """Results by network: `fp32`, then every width.

    Shares are in [0, 1]. `drop` is what the student loses against the teacher on the same images,
    with the half-width of its 95 % interval; `compression` is fp32 size by size; `bank_agreement`
    is agreement with the teacher on the images the student was trained on; `kept_step` is the step
    of fine-tuning that the student is from, of `steps`; `low_bit_*` are the shares of the network
    that really are low-bit. Without test images (`samples` is 0) nothing else is known.
    """
    teacher = widths[0].measured["teacher"]
    results = {"fp32": _known(teacher)}
    for width in widths:
        student = width.measured["student"]
        results[width.name] = _known(student) | {
            "compression": teacher["size_bytes"] / student["size_bytes"],
            "bank_agreement": width.measured["bank"]["student"]["agreement"],
            "kept_step": width.trained["kept_step"],
            "steps": width.trained["steps"],
            **{key: width.calibrated[key] for key in COVERED},
        }
        if student["samples"]:
            drop = paired_drop(width.seen.correct("teacher"), width.seen.correct("student"))
            results[width.name] |= {
                "top1_before_finetuning": width.measured["calibrated"]["top1"],
                **dict(zip(("drop", "drop_margin"), drop, strict=True)),
            }
    return results


def _known(measured: dict[str, Any]) -> dict[str, Any]:
    return {key: measured[key] for key in _MEASURES if key in measured}


def verdict(name: str, row: dict[str, Any]) -> str:
    """What says whether the student can be trusted."""
    if row["kept_step"] == row["steps"]:
        return _measured(name, row)
    return (
        f"{_measured(name, row)} On held-back samples fine-tuning ended worse than it began: the"
        f" student is that of step {row['kept_step']} of {row['steps']}."
    )


def _measured(name: str, row: dict[str, Any]) -> str:
    if not row["samples"]:
        return (
            f"{name.upper()} gives the teacher's answer on {row['bank_agreement']:.1%} of the bank"
            " it was trained on; without test images nobody knows its accuracy."
        )
    drop, margin = 100 * row["drop"], 100 * row["drop_margin"]
    answers = (
        f"{name.upper()} gives the teacher's answer on {row['agreement']:.1%} of"
        f" {row['samples']:,} test images"
    )
    if abs(drop) <= margin or drop == 0:
        answers += "; on so few images its accuracy cannot be told from the teacher's."
    elif drop < 0:
        answers += f" and is {-drop:.2f} ± {margin:.2f} points more accurate."
    else:
        answers += f" and loses {drop:.2f} ± {margin:.2f} points of accuracy."
    before = row.get("top1_before_finetuning", 0.0)
    if before - row.get("top1", 1.0) > row["drop_margin"]:
        answers += (
            f" Fine-tuning made it worse than the {before:.2%} it had before: give it more samples,"
            " more steps or a smaller learning rate."
        )
    return answers
