"""Synthesis by the workers of a real Dask scheduler, with a store between the machines."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT, edit_params
from stage_runs import A, run_generator, run_synthesize, run_teacher
from test_processes import files, wait_for

from hast.bank import cluster
from hast.errors import TransientError
from stages import synthesize


@pytest.fixture
def scheduler(tmp_path_factory) -> Iterator[str]:
    """Address of a scheduler on a free loopback port with two workers.

    They run in folders of their own and have no nanny: a killed one stays away.
    """
    folder = tmp_path_factory.mktemp("cluster")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "DASK_TEMPORARY_DIRECTORY": str(folder),
        "OMP_NUM_THREADS": "1",
    }

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--scheduler-file", str(folder / "at.json")],
            cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    started = [start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard")]
    try:
        wait_for((folder / "at.json").is_file)
        worker = ("worker", "--nthreads", "1", "--no-nanny", "--no-dashboard")
        started += [start(*worker, "--name", name) for name in ("one", "two")]
        yield json.loads((folder / "at.json").read_text())["address"]
    finally:
        for process in started:
            process.kill()
            process.wait()


def worker_pids(address: str) -> list[int]:
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        return list(client.run(os.getpid).values())


def test_workers_of_a_cluster_write_the_bank_of_one_process_byte_for_byte(
    project, scheduler, tmp_path
):
    edit_params(project, lambda p: p["synthesize"].update(samples=40, steps=60))
    run_teacher()
    run_generator()
    run_synthesize(workers=1)
    alone = files(A / "bank")
    pids = worker_pids(scheduler)
    store = tmp_path / "store"
    records = []

    def killing_one_in_the_middle(*arguments, **options):
        for record in cluster.make_with_dask(*arguments, **options):
            records.append(record)
            if len(records) == 70:
                assert [*store.glob("*/teacher/*")]
                os.kill(pids[0], 9)
            yield record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesize, "make_with_dask", killing_one_in_the_middle)
        run_synthesize(cluster=scheduler, store=str(store))
    assert files(A / "bank") == alone
    assert len(records) == 5 * 60
    assert [*store.iterdir()] == []


@pytest.mark.slow
def test_shards_that_reached_the_store_before_a_crash_are_not_made_again(
    project, scheduler, tmp_path
):
    run_teacher()
    run_generator()
    run_synthesize(workers=1)
    alone = files(A / "bank")

    def leaving_early(*arguments, **options):
        for record in cluster.make_with_dask(*arguments, **options):
            yield record
            if record.steps == 3:
                raise TransientError("left")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthesize, "make_with_dask", leaving_early)
        with pytest.raises(TransientError, match="left"):
            run_synthesize(cluster=scheduler, store=str(tmp_path / "store"))
    assert [*(tmp_path / "store").glob("*/done/shard-*")]
    for folder in Path(".partial").iterdir():  # the machine that asked is lost
        shutil.rmtree(folder)
    run_synthesize(cluster=scheduler, store=str(tmp_path / "store"))
    assert files(A / "bank") == alone


def test_a_scheduler_that_is_not_there_is_named_in_the_error(project, monkeypatch):
    monkeypatch.setattr(cluster, "_PATIENCE", 1.0)
    run_teacher()
    run_generator()
    with pytest.raises(TransientError, match=r"no Dask scheduler answers at tcp://127.0.0.1:9 "):
        run_synthesize(cluster="tcp://127.0.0.1:9")
