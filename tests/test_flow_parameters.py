"""What a flow refuses before anything starts."""

import pytest
from conftest import python, refused
from light_project import light_project
from prefect.exceptions import ParameterTypeError

from hast.flows.commands import retrying
from hast.flows.devices import ensure_limits
from hast.flows.pipeline import pipeline, run_stage
from hast.flows.plan import stages_in_order
from hast.flows.sweep import sweep

RETRIES = [("retries", -1), ("retries", 51)]
RETRIES += [("retry_delay_seconds", -5), ("retry_delay_seconds", float("inf"))]
TIMES = [("stage_timeout_seconds", 0), ("stage_timeout_seconds", -1)]


@pytest.mark.parametrize(
    ("flow", "name", "value"),
    [*((pipeline, *wrong) for wrong in RETRIES + TIMES), *((sweep, *wrong) for wrong in RETRIES)],
)
def test_retries_their_delays_and_times_have_bounds(flow, name, value):
    with pytest.raises(ParameterTypeError, match=f"- {name}: Input should be"):
        flow.validate_parameters({name: value})


def test_as_many_retries_as_are_allowed_can_be_had():
    assert pipeline.validate_parameters({"retries": 50})["retries"] == 50
    delays = run_stage.with_options(**retrying(50, 15.0)).retry_delay_seconds
    assert delays[:3] == [15, 30, 60]
    assert (len(delays), delays[-1]) == (50, 3600)
    assert retrying(2, 7200.0)["retry_delay_seconds"] == [7200, 7200]


@pytest.mark.parametrize("command", ["flow", "sweep"])
@pytest.mark.parametrize(
    ("argument", "code", "said"), [("--help", 0, "Usage"), ("--typo", 2, "No such option: --typo")]
)
def test_arguments_of_a_flow_are_not_ignored(command, argument, code, said):
    ended = python("-m", "hast", command, argument, code=code)
    assert said in ended.stdout + ended.stderr


@pytest.mark.parametrize("targets", [[""], ["first", " "]])
def test_an_empty_target_is_not_the_whole_pipeline(targets, tmp_path, monkeypatch):
    monkeypatch.chdir(light_project(tmp_path / "project"))
    with refused("targets: each must name a stage, got"):
        stages_in_order(targets)


@pytest.mark.parametrize("value", ["two", "0", "-1", "1.5", ""])
def test_a_number_of_tasks_that_is_none_is_refused_before_any_server_is_asked(value, monkeypatch):
    monkeypatch.setenv("HAST_TASKS_PER_DEVICE", value)
    with refused(f"must be a positive number, got '{value}'"):
        ensure_limits(["cpu:here"])
