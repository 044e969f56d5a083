"""What a bank is, in a few figures."""

from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from hast.bank.stored import MANIFEST, STORE, StoredBank


def bank_facts(bank: StoredBank) -> dict[str, Any]:
    """What `hast bank info` tells, ready for JSON. `digest` is the sha256 of the manifest,
    `bns_gap` the mean over the BatchNorm calls; sizes are in bytes."""
    card, hard = bank.card, bank.difficulty.numpy()
    stored = [p for p in (bank.folder / STORE).rglob("*") if p.is_file()]
    stored.append(bank.folder / MANIFEST)
    low, middle, high = np.quantile(hard, [0.1, 0.5, 0.9])
    told = {"samples", "dtype", "teacher", "synthesis", "generator", "libraries", "derived"}
    return card.model_dump(mode="json", include=told) | {
        "image_shape": card.spec.input_shape,
        "classes": card.spec.num_classes,
        "samples_of_class": bank.labels.bincount(minlength=card.spec.num_classes).tolist(),
        "digest": bank.digest,
        "difficulty": {
            "mean": float(hard.mean()),
            "p10": float(low),
            "median": float(middle),
            "p90": float(high),
            "share_above_half": float((hard > 0.5).mean()),
        },
        "bns_gap": None if bank.bns_gap is None else float(bank.bns_gap.mean()),
        "files": len(stored),
        "bytes": sum(path.stat().st_size for path in stored),
    }


def facts_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts in words."""
    hard, counts = facts["difficulty"], facts["samples_of_class"]
    shape = " x ".join(map(str, facts["image_shape"]))
    rows = [
        ("samples", f"{facts['samples']:,} of {shape}, stored as {facts['dtype']}"),
        ("classes", f"{facts['classes']}, {min(counts):,} to {max(counts):,} samples each"),
        ("teacher", facts["teacher"]),
        (
            "difficulty",
            f"mean {hard['mean']:.3f}, 10% below {hard['p10']:.3f}, half below"
            f" {hard['median']:.3f}, 10% above {hard['p90']:.3f}",
        ),
        ("BNS gap", "not measured" if facts["bns_gap"] is None else f"mean {facts['bns_gap']:.4g}"),
        ("size", f"{facts['bytes']:,} bytes in {facts['files']} files"),
        ("content", facts["digest"]),
        ("synthesis", _listed(facts["synthesis"]) or "none, or not the same for all samples"),
        ("generator", facts["generator"] or "not used"),
        ("libraries", _listed(facts["libraries"])),
    ]
    if derived := facts["derived"]:
        rows.append(("made by", f"{derived['operation']} {_listed(derived['parameters'])}".strip()))
        rows += [
            ("from", f"{parent['digest']}, {parent['samples']:,} samples")
            for parent in derived["parents"]
        ]
        rows += [
            ("of pictures", _listed(pictures))
            for parent in derived["parents"]
            for pictures in parent.get("pictures", ())
        ]
    return rows


def facts_table(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None)
    for name, text in facts_rows(facts):
        # A card may hold anything, also what would command the terminal.
        table.add_row(f"[bold]{name}", "".join(c if c.isprintable() else "?" for c in escape(text)))
    return table


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
