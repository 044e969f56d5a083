"""Synthesis by the workers of a real Dask scheduler, with a store between the machines."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import files, refused, set_params, started, wait_for
from stage_runs import A, run_generator, run_synthesize, run_teacher

from hast.bank import cluster
from hast.errors import TransientError
from hast.stages import synthesize


@pytest.fixture
def scheduler(tmp_path_factory) -> "Iterator[tuple[str, list[subprocess.Popen[str]]]]":
    """Address of a scheduler on a free loopback port, its process and those of two workers.

    They run in folders of their own and have no nanny: a killed one stays away.
    """
    folder = tmp_path_factory.mktemp("cluster")

    def start(*arguments: str) -> "subprocess.Popen[str]":
        return started(
            "-m", "dask", *arguments, "--scheduler-file", str(folder / "at.json"), cwd=folder,
            environment={"DASK_TEMPORARY_DIRECTORY": str(folder), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    running = [start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")]
    try:
        wait_for((folder / "at.json").is_file)
        worker = ("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard")
        running += [start(*worker, "--name", name) for name in ("one", "two")]
        yield json.loads((folder / "at.json").read_text())["address"], running
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_a_cluster_writes_the_bank_of_one_process(project, scheduler, tmp_path, monkeypatch):
    change = {"synthesize.samples": 40, "synthesize.steps": 60, "synthesize.init": "generator"}
    set_params(project, change)
    run_teacher()
    run_generator()
    run_synthesize(workers=1)
    alone = files(A / "bank")
    address, (*_, worker) = scheduler
    store = tmp_path / "store"
    records = []

    def killing_one_in_the_middle(*arguments, **options):
        for record in cluster.make_with_dask(*arguments, **options):
            records.append(record)
            if len({record.start for record in records}) == 2 and worker.returncode is None:
                worker.kill()
                worker.wait()
            yield record

    monkeypatch.setattr(synthesize, "make_with_dask", killing_one_in_the_middle)
    run_synthesize(cluster=address, store=str(store))
    assert files(A / "bank") == alone
    assert len(records) == 5 * 60
    assert [*store.iterdir()] == []


@pytest.mark.slow
def test_shards_in_the_store_before_a_crash_are_not_made_again(project, scheduler, tmp_path):
    run_teacher()
    run_synthesize(workers=1)
    alone = files(A / "bank")
    options = {"cluster": scheduler[0], "store": str(tmp_path / "store")}

    def leaving_early(*arguments, **options):
        for record in cluster.make_with_dask(*arguments, **options):
            yield record
            if record.steps == 3:
                raise TransientError("left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesize, "make_with_dask", leaving_early)
        with pytest.raises(TransientError, match="left"):
            run_synthesize(**options)
    assert [*(tmp_path / "store").glob("*/shard-*/manifest.json")]
    for folder in Path(".partial").iterdir():  # the machine that asked is lost
        shutil.rmtree(folder)
    run_synthesize(**options)
    assert files(A / "bank") == alone


def test_a_scheduler_that_is_lost_is_told_and_what_is_finished_is_kept(
    project, scheduler, monkeypatch
):
    set_params(project, {"synthesize.samples": 40, "synthesize.steps": 60})
    run_teacher()
    address, (process, *_) = scheduler

    def killing_it_after_a_shard(*arguments, **options):
        starts = set()
        for record in cluster.make_with_dask(*arguments, **options):
            starts.add(record.start)
            if len(starts) == 3:
                process.kill()
            yield record

    monkeypatch.setattr(synthesize, "make_with_dask", killing_it_after_a_shard)
    with pytest.raises(TransientError, match="connection to the Dask scheduler was lost"):
        run_synthesize(cluster=address)
    assert [*Path(".partial").glob("bank-*/done/*")]


def test_a_worker_with_another_version_says_so_in_one_line():
    run = cluster.Run("", SimpleNamespace(name=lambda: "theirs"), "ours", 1, "")
    with refused(r"^the Dask worker on .* has another version .* again$"):
        cluster.make_shard(run, slice(0, 8), {})


def test_a_scheduler_that_is_not_there_is_named_in_the_error(project, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 1.0)
    run_teacher()
    with pytest.raises(TransientError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 "):
        run_synthesize(cluster="tcp://127.0.0.1:9")


def test_a_machine_without_shared_memory_is_told_what_helps(project, monkeypatch):
    def read_only(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("multiprocessing.synchronize.Semaphore", read_only)
    run_teacher()
    with refused("several processes need shared memory, .*or set HAST_WORKERS=1"):
        run_synthesize(workers=2)
