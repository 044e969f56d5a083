"""bench/gpu.sh: with tiny numbers each of its parts runs here, so that it does where it counts."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_every_part_runs_dry(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    subprocess.run(["sh", "bench/gpu.sh", tmp_path, "--dry"], cwd=ROOT, env=environment, check=True)
    lines = [line.split("\t") for line in (tmp_path / "parts.tsv").read_text().splitlines()]
    parts = ["tests", "steps", "techniques", "batches", "two", "resume", "paper"]
    assert [(name, code) for name, code, _ in lines] == [(part, "0") for part in parts]
