"""evaluate: measure teacher, calibrated and fine-tuned student on the test split, in fp32."""

from hast.config import load_section
from hast.engine import select_device
from hast.loops.evaluate import evaluate
from hast.networks.size import packed_size
from hast.progress import track
from hast.storage.datasets import DatasetConfig, open_batches
from hast.storage.students import load_student
from hast.storage.tables import write_json
from hast.storage.teachers import load_teacher
from stages.entry import PARAMS, Bits, Device, In, Out, Params, main


def run(
    *,
    bits: Bits,
    inputs: In,
    teacher: In,
    calibrated: In,
    student: In,
    metrics: Out,
    params: Params = PARAMS,
    device: Device = "auto",
) -> None:
    """Write accuracy, agreement and size of each network to METRICS.

    INPUTS only says when to do it again.
    """
    del inputs
    config = load_section(params, "dataset", DatasetConfig)
    where = select_device(device)
    source = load_teacher(teacher, where)
    networks = {
        "teacher": source.network,
        "calibrated": load_student(calibrated, source, where),
        "student": load_student(student, source, where),
    }

    batches = open_batches(config, "test", source.spec)
    counts = evaluate(networks, source.network, batches)
    *_, totals = track(counts, total=len(batches), label=f"evaluate {bits}")

    write_json(
        metrics,
        {
            name: {
                "top1": totals[name].top1,
                "top5": totals[name].top5,
                "agreement": totals[name].agreement,
                "size_bytes": packed_size(network),
                "samples": totals[name].samples,
            }
            for name, network in networks.items()
        },
    )


if __name__ == "__main__":
    main(run)
