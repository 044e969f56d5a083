"""Speed of students for `pt2e`, compiled by torch, beside full precision compiled the same way.

    python -m bench.compiled

Calls take turns and the median counts. Weights are random, see `bench.integer`. It needs torchao,
which holds Inductor's patterns for integer kernels. Writes bench/out/compiled.json.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor

import hast
from bench.experiment import bank_of, parse_widths
from bench.integer import BATCHES, NETWORKS, built, calibrated, show
from bench.machine import describe
from bench.run import OUT
from hast.files.tables import write_json

PATTERNS = "torchao.quantization.pt2e.quantizer.x86_inductor_quantizer"
_IMAGES, _CALLS = 16, 25  # to calibrate with; of each network
_REST = 0.05  # seconds; threads of the network before may wait actively for more work


def main() -> None:
    import_module(PATTERNS)  # registers them
    rows: list[dict[str, Any]] = []
    for source, network, spec in built(NETWORKS):
        bank = bank_of(network, spec, torch.randn(_IMAGES, *spec.input_shape))
        students = {
            f"ours, {width}": calibrated(network, spec, bank, width, "pt2e")
            for width in parse_widths("w8a8,w4a8,w4a4")
        }
        with TemporaryDirectory() as folder:
            found = {"fp32": (network, sum(t.nbytes for t in network.state_dict().values()))}
            for name, student in students.items():
                path = hast.export_program(student, Path(folder) / "student.pt2")
                found[name] = torch.export.load(path).module(), path.stat().st_size
        programs = {name: program for name, (program, _) in found.items()}
        mine = {
            name: {"network": source, "file": name, "bytes": n} for name, (_, n) in found.items()
        }
        for batch in BATCHES:
            for name, row in measure(programs, torch.randn(batch, *spec.input_shape)).items():
                mine[name] |= {f"batch_{batch}": row["ms"], "integer layers": row["layers"]}
        rows += mine.values()
        show(rows[-len(mine) :])
        print({name: row["integer layers"] for name, row in mine.items()}, flush=True)
    write_json(OUT / "compiled.json", {"machine": describe(torch.device("cpu")), "rows": rows})


def measure(programs: Mapping[str, nn.Module], images: Tensor) -> dict[str, dict[str, float]]:
    """Milliseconds of a call, and layers that Inductor gave an integer kernel, by program."""
    compiled: dict[str, Callable[[Tensor], Tensor]] = {}
    found: dict[str, dict[str, float]] = {}
    with torch.no_grad(), inductor.patch(freezing=True, fx_graph_cache=False):
        torch._dynamo.reset()
        for name, program in programs.items():
            counters.clear()
            compiled[name] = torch.compile(program, dynamic=False)
            compiled[name](images)
            kinds = counters["inductor"].items()
            layers = sum(count for kind, count in kinds if kind.endswith("ary_lower_count"))
            found[name] = {"layers": layers}
        times: dict[str, list[float]] = {name: [] for name in programs}
        for _ in range(_CALLS):
            for name, call in compiled.items():
                time.sleep(_REST)
                start = time.perf_counter()
                call(images)
                times[name].append(time.perf_counter() - start)
    for name, seconds in times.items():
        found[name]["ms"] = 1000 * statistics.median(seconds)
    return found


if __name__ == "__main__":
    main()
