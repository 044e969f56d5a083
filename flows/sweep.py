"""Sweeps: variants × seeds as DVC experiments, and one table with mean and standard deviation.

Every experiment is a `dvc exp run --temp`: a workspace of its own, the cache and the run cache of
this clone. What several experiments share (teacher, bank) is made once, before them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import dvc.api
from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.futures import PrefectFuture
from prefect.runtime import flow_run
from prefect.states import Failed

from flows.commands import TASK, Delay, Retries, retrying, run_here, state_of
from flows.commands import dvc as run_dvc
from flows.devices import environment_of, shared_out
from flows.pipeline import errors_as_states
from flows.plan import Stage, stages_in_order
from flows.processes import stopped_at_exit
from flows.progress import Output
from flows.workspace import check_overrides, workspace
from hast.files.tables import write_json
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
Runs = Mapping[tuple[str, int], Overrides]  # by variant and seed


@task(task_run_name="{name}", **TASK)
def run_experiment(
    name: str, overrides: Overrides, *, targets: Sequence[str], devices: Sequence[str],
    copy_paths: Sequence[str],
) -> State[Any]:  # fmt: skip
    """One DVC experiment in a temporary workspace."""
    settings = [f"--set-param=++{key}={json.dumps(value)}" for key, value in overrides.items()]
    copies = [f"--copy-paths={path}" for path in copy_paths]
    outcome = run_dvc(
        "exp", "run", "--temp", "--name", name, *settings, *copies, *targets,
        environment=environment_of(devices), on_line=Output().show,
    )  # fmt: skip
    return state_of(outcome, name=name)


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
    variants, seeds = variants or ABLATION, seeds or [0, 1, 2]
    common = dict(overrides or {}) | ({"bit_widths": bit_widths} if bit_widths else {})
    runs = {
        (variant, seed): own | dict.fromkeys(seed_parameters or ["quantize.seed"], seed)
        for variant, own in variants.items()
        for seed in seeds
    }
    with errors_as_states() as failed, workspace(common), stopped_at_exit():
        for settings in runs.values():
            check_overrides(settings)
        states = _run(
            runs,
            run_experiment.with_options(**retrying(retries, retry_delay_seconds)),
            copy_paths=copy_paths or [],
        )
        names = _names(runs)
        done = {key: _top1(names[key]) for key, s in states.items() if s.is_completed()}
        table = {
            variant: _summary([done[key] for key in runs if key[0] == variant and key in done])
            for variant in variants
        }
        _publish(table)
        bad = [state for state in states.values() if not state.is_completed()]
        if bad:
            return Failed(message=f"{len(bad)} of {len(runs)} experiments failed: {bad[0].message}")
        return table
    return failed[0]


def _run(runs: Runs, job: Any, **options: Any) -> dict[tuple[str, int], State[Any]]:
    """Make what several experiments share, then run all of them; waits for the end."""
    shared = _shared_stages(stages_in_order())
    sections = {section for stage in shared for section in stage.params}
    shares = shared_out([None, *map(str, runs)])

    def submit(name: str, settings: Overrides, item: str | None, **more: Any) -> PrefectFuture[Any]:
        tagged = job.with_options(tags=["gpu", *shares[item]])
        future: PrefectFuture[Any] = tagged.submit(
            name, settings, devices=shares[item], **more, **options
        )
        return future

    made: dict[str, PrefectFuture[Any]] = {}
    futures, names = {}, _names(runs)
    for key, settings in runs.items():
        upstream = {k: v for k, v in settings.items() if k.partition(".")[0] in sections}
        group = json.dumps(upstream, sort_keys=True)
        if group not in made:
            name = f"{_prefix()}-shared-{len(made)}"
            made[group] = submit(name, upstream, None, targets=[s.name for s in shared])
        futures[key] = submit(names[key], settings, str(key), targets=[], wait_for=[made[group]])
    for future in [*made.values(), *futures.values()]:
        future.wait()
    shared_names = [f"{_prefix()}-shared-{n}" for n in range(len(made))]
    run_dvc("exp", "remove", *shared_names)  # they have no results of their own
    return {key: future.state for key, future in futures.items()}


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
    networks = list(dict.fromkeys(name for run in runs for name in run))
    values = {name: [run[name] for run in runs if name in run] for name in networks}
    return {
        name: {"mean": mean(v), "std": stdev(v) if len(v) > 1 else 0.0, "runs": len(v)}
        for name, v in values.items()
    }


def _publish(table: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """The table as an artifact of Prefect and as files in sweeps/."""
    networks = list(dict.fromkeys(name for cells in table.values() for name in cells))
    rows = [
        {"variant": variant} | {n.upper(): _cell(cells.get(n)) for n in networks}
        for variant, cells in table.items()
    ]
    create_table_artifact(
        rows, key="sweep", description="Top-1, mean ± standard deviation (number of runs)"
    )
    write_json(_SWEEPS / f"{_prefix()}.json", table)
    page = markdown_rows(
        [["variant", *map(str.upper, networks)], *(list(r.values()) for r in rows)]
    )
    (_SWEEPS / f"{_prefix()}.md").write_text(page)
    get_run_logger().info("%s.md:\n%s", _SWEEPS / _prefix(), page)


def _cell(summary: Mapping[str, float] | None) -> str:
    if summary is None:
        return "failed"
    return f"{summary['mean']:.2%} ± {100 * summary['std']:.2f} ({summary['runs']})"


def _prefix() -> str:
    return str(flow_run.name)


def _names(runs: Runs) -> dict[tuple[str, int], str]:
    """Of the experiments, as `dvc exp show` lists them. Not every letter may stand in them."""
    numbers = {variant: n for n, variant in enumerate(dict.fromkeys(v for v, _ in runs))}
    slugs = {v: re.sub("[^a-z0-9]+", "-", v.lower()).strip("-") for v in numbers}
    return {(v, seed): f"{_prefix()}-{numbers[v]}-{slugs[v] or 'x'}-{seed}" for v, seed in runs}


if __name__ == "__main__":
    run_here(sweep, "sweep")
