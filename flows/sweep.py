"""Sweeps: variants × seeds as DVC experiments, and one table with mean and standard deviation.

Every experiment is a `dvc exp run --temp`: a workspace of its own, the cache and the run cache of
this clone. What several experiments share (teacher, bank) is made once, before them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import dvc.api
from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Failed

from hast.errors import InputError, clear_errors
from hast.files.tables import write_json
from hast.flows.commands import TASK, Delay, Retries, retrying, state_of
from hast.flows.commands import dvc as run_dvc
from hast.flows.devices import shared_out
from hast.flows.plan import Stage, stages_in_order
from hast.flows.processes import stopped_at_exit
from hast.flows.workspace import check_overrides, workspace
from hast.report.tables import markdown_rows

# The paper's ablation: γ, ε and λ on and off.
ABLATION: dict[str, dict[str, Any]] = {
    "full": {},
    "no hard samples (γ = 0)": {"synthesize.gamma": 0.0},
    "no promotion (ε = 0)": {"quantize.promotion_step": 0.0},
    "no alignment (λ = 0)": {"quantize.alignment_weight": 0.0},
    "none of them": {
        "synthesize.gamma": 0.0,
        "quantize.promotion_step": 0.0,
        "quantize.alignment_weight": 0.0,
    },
}
_SWEEPS = Path("sweeps")
_RESULTS = "report/results.json"

Overrides = Mapping[str, Any]


class Experiment(NamedTuple):
    """A variant with one seed."""

    name: str  # as `dvc exp show` lists it
    variant: str
    settings: Overrides


@task(task_run_name="{name}", **TASK)
def run_experiment(
    name: str, overrides: Overrides, *, targets: Sequence[str], devices: Sequence[str],
    copy_paths: Sequence[str],
) -> State[Any]:  # fmt: skip
    """One DVC experiment in a temporary workspace."""
    settings = [f"--set-param=++{key}={json.dumps(value)}" for key, value in overrides.items()]
    copies = [f"--copy-paths={path}" for path in copy_paths]
    command = ("exp", "run", "--temp", "--name", name, *settings, *copies, *targets)
    return state_of(run_dvc(*command, devices=devices), name=name)


@flow(name="hast-sweep")
def sweep(
    variants: dict[str, dict[str, Any]] | None = None,
    seeds: list[int] | None = None,
    bit_widths: list[str] | None = None,
    seed_parameters: list[str] | None = None,
    overrides: dict[str, Any] | None = None,
    copy_paths: list[str] | None = None,
    retries: Retries = 2,
    retry_delay_seconds: Delay = 15.0,
) -> Any:
    """Run every variant with every seed, and publish mean and standard deviation of top-1.

    Args:
        variants: parameters by name of the variant; by default the paper's ablation.
        seeds: by default 0, 1 and 2.
        bit_widths: by default those of params.yaml.
        seed_parameters: what a seed sets; by default quantize.seed alone, so that all seeds share
            a bank. Add synthesize.seed for a bank a seed.
        overrides: parameters of all variants.
        copy_paths: files outside Git that the stages read.
        retries: of an experiment after what can pass; at most 50.
        retry_delay_seconds: before the first retry; it doubles each time, up to an hour.

    Returns:
        By variant and network, mean, standard deviation and number of top-1 accuracies.
    """
    variants = variants or ABLATION
    common = dict(overrides or {}) | ({"bit_widths": bit_widths} if bit_widths else {})
    experiments = [
        Experiment(
            f"{flow_run.name}-{number}-{_slug(variant)}-{seed}",
            variant,
            own | dict.fromkeys(seed_parameters or ["quantize.seed"], seed),
        )
        for number, (variant, own) in enumerate(variants.items())
        for seed in seeds or [0, 1, 2]
    ]
    try:
        with workspace(common), stopped_at_exit():
            for experiment in experiments:
                check_overrides(experiment.settings)
            states = _run(
                experiments,
                run_experiment.with_options(**retrying(retries, retry_delay_seconds)),
                copy_paths=copy_paths or [],
            )
            done: dict[str, list[dict[str, float]]] = {variant: [] for variant in variants}
            for experiment, state in zip(experiments, states, strict=True):
                if state.is_completed():
                    done[experiment.variant].append(_top1(experiment.name))
            table = {variant: _summary(runs) for variant, runs in done.items()}
            _publish(table)
    except InputError as error:  # what a user can mend
        return Failed(message=f"error: {error}")
    bad = [state for state in states if not state.is_completed()]
    if bad:
        return Failed(message=f"{len(bad)} of {len(states)} experiments failed: {bad[0].message}")
    return table


def _run(experiments: Sequence[Experiment], job: Any, **options: Any) -> list[State[Any]]:
    """Make what several experiments share, then run all of them; waits for the end."""
    shared = _shared_stages(stages_in_order())
    sections = {section for stage in shared for section in stage.params}
    shares = shared_out([None, *(experiment.name for experiment in experiments)])

    def submit(name: str, settings: Overrides, item: str | None, **more: Any) -> PrefectFuture[Any]:
        tagged = job.with_options(tags=["gpu", *shares[item]])
        future: PrefectFuture[Any] = tagged.submit(
            name, settings, devices=shares[item], **more, **options
        )
        return future

    made: dict[str, PrefectFuture[Any]] = {}
    names = []
    futures = []
    for name, _, settings in experiments:
        upstream = {k: v for k, v in settings.items() if k.partition(".")[0] in sections}
        group = json.dumps(upstream, sort_keys=True)
        if group not in made:
            names.append(f"{flow_run.name}-shared-{len(made)}")
            made[group] = submit(names[-1], upstream, None, targets=[s.name for s in shared])
        futures.append(submit(name, settings, name, targets=[], wait_for=[made[group]]))
    for future in [*made.values(), *futures]:
        future.wait()
    run_dvc("exp", "remove", *names)  # they have no results of their own
    return [future.state for future in futures]


def _shared_stages(stages: Sequence[Stage]) -> list[Stage]:
    """Stages before the matrix: what they make serves all bit widths."""
    after: set[str] = set()
    for stage in stages:
        if stage.item or after.intersection(stage.needs):
            after.add(stage.name)
    return [stage for stage in stages if stage.name not in after]


def _top1(experiment: str) -> dict[str, float]:
    """Accuracy in [0, 1] of every quantized network."""
    results = json.loads(dvc.api.read(_RESULTS, rev=experiment))
    return {name: row["top1"] for name, row in results.items() if name != "fp32"}


def _summary(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    values = {name: [run[name] for run in runs] for name in (runs[0] if runs else ())}
    return {
        name: {"mean": mean(v), "std": stdev(v) if len(v) > 1 else 0.0, "runs": len(v)}
        for name, v in values.items()
    }


def _publish(table: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """The table as an artifact of Prefect and as files in sweeps/."""
    networks = list(dict.fromkeys(name for cells in table.values() for name in cells))
    header = ["variant", *map(str.upper, networks)]
    rows = [
        [variant, *(_cell(cells.get(name)) for name in networks)]
        for variant, cells in table.items()
    ]
    create_table_artifact(
        [dict(zip(header, row, strict=True)) for row in rows],
        key="sweep",
        description="Top-1, mean ± standard deviation (number of runs)",
    )
    write_json(_SWEEPS / f"{flow_run.name}.json", table)
    path, page = _SWEEPS / f"{flow_run.name}.md", markdown_rows([header, *rows])
    path.write_text(page)
    get_run_logger().info("%s:\n%s", path, page)


def _cell(summary: Mapping[str, float] | None) -> str:
    if summary is None:
        return "failed"
    return f"{summary['mean']:.2%} ± {100 * summary['std']:.2f} ({summary['runs']})"


def _slug(variant: str) -> str:
    """Not every letter may stand in the name of an experiment."""
    return re.sub("[^a-z0-9]+", "-", variant.lower()).strip("-") or "x"


if __name__ == "__main__":
    with clear_errors("flows.sweep"):
        raise InputError("`hast sweep` runs it, and has its options")
