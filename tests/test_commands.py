"""The commands of a day with the program, as a user calls them: real processes in a folder."""

import getpass
import json
import os

import pytest
import torch
from conftest import cli, python, refused
from own_network import SPEC, make_images, run

from hast.cli.doctor import examine
from hast.config.params import check_params
from hast.config.section import read_yaml
from hast.engine.environment import complete_environment
from hast.report.offline_plots import set_up


def test_init_writes_parameters_that_the_pipeline_accepts(mine, hast_here):
    done = hast_here("init", "python:mine:build", *SPEC, "--bits", "w4a4,w2a8")
    assert "takes 3x12x12 images and answers 3 classes" in done.stdout
    assert "1 BatchNorm layers" in done.stdout
    assert "no test images" in done.stdout
    check_params(mine / "params.yaml")
    written = read_yaml(mine / "params.yaml")
    assert written["bit_widths"] == ["w4a4", "w2a8"]
    assert written["dataset"]["name"] == "none"
    assert written["teacher"]["spec"]["mean"] == [0.5, 0.5, 0.5]


def test_init_takes_a_checkpoint_and_a_folder_and_keeps_the_old_file(mine):
    from mine import build

    torch.save(build(5).state_dict(), mine / "w.pth")
    make_images(mine / "images/test", classes=5)
    (mine / "params.yaml").write_text("old\n")
    options = ["--weights", "w.pth", "--source-args", '{"classes": 5}', "--data-root", "images"]
    done = run("init", "python:mine:build", *SPEC, *options)
    assert (mine / "params.yaml.old").read_text() == "old\n"
    written = read_yaml(mine / "params.yaml")
    assert "10 test images in 5 classes" in done.stdout
    assert (written["dataset"]["name"], written["dataset"]["root"]) == ("folder", "images")
    assert written["teacher"]["spec"]["class_names"] == [f"kind_{i}" for i in range(5)]
    assert written["teacher"]["weights"] == "w.pth"


def test_init_says_that_it_takes_averaged_weights_and_takes_the_others_if_told(mine):
    from mine import build

    state = build().state_dict()
    mean = {name: tensor * 3 for name, tensor in state.items()}
    torch.save({"state_dict": state, "state_dict_ema": mean}, mine / "w.pth")
    command = ["init", "python:mine:build", *SPEC, "--weights", "w.pth"]
    (line,) = cli(*command, cwd=mine).stderr.splitlines()
    assert line.startswith("warning: ")
    assert "w.pth: took the averaged weights, state_dict_ema; `weights_entry: state_dict`" in line
    assert read_yaml(mine / "params.yaml")["teacher"]["weights_entry"] == "auto"

    assert run(*command, "--weights-entry", "state_dict").stderr == ""
    assert read_yaml(mine / "params.yaml")["teacher"]["weights_entry"] == "state_dict"
    check_params(mine / "params.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["python:mine:build"], "must be given.*--input-shape, --mean and --std"),
        (["python:mine:nothing", *SPEC], "cannot be imported"),
        (["python:torch.nn:Identity", *SPEC], "Identity has no parameters"),
        (["python:mine:build", *SPEC, "--data-root", "nowhere"], "must be a folder .* got nowhere"),
        (["python:mine:build", *SPEC, "--data-root", "four"], "four/test holds 4 classes .* 3"),
        (["python:mine:build", *SPEC, "--data-root", "empty"], "no valid file for the classes a"),
        (
            ["python:mine:build", *SPEC[:2], "--mean", "124,116,104", "--std", "58,57,57"],
            "of pixels in .0, 1., so none is above 1; divide those of 0..255 by 255",
        ),
        (["python:mine:build", *SPEC, "--bits", "4"], "bit width must be written"),
        (["python:mine:build", *SPEC[:2], "--mean", "a"], "mean must be numbers"),
        ([], "SOURCE is missing, and there is no terminal"),
    ],
)
def test_init_that_cannot_work_says_why_and_writes_nothing(mine, arguments, message):
    make_images(mine / "four/test", classes=4)
    (mine / "empty/test/a").mkdir(parents=True)
    with refused(message):
        run("init", *arguments)
    assert not (mine / "params.yaml").exists()


def test_init_says_that_a_network_without_batch_norm_needs_pictures(mine, hast_here):
    command = ["init", "python:pictures:convnext", "--input-shape", "3x32x32", *SPEC[2:]]
    done = hast_here(*command)
    assert "0 BatchNorm layers, 2 blocks to align" in done.stdout
    assert "bank.source in params.yaml to a folder of unlabelled pictures" in done.stdout
    check_params(mine / "params.yaml")
    assert read_yaml(mine / "params.yaml")["calibrate"]["images"] == "bank"


@pytest.mark.filterwarnings("default::hast.errors.HastWarning")
def test_inspect_tells_how_much_of_a_transformer_stays_as_it_is(hast_here):
    done = hast_here("inspect", "python:pictures:vit", "--input-shape", "3x32x32")
    assert "0 BatchNorm layers" in done.stdout
    assert "self_attention" in done.stderr


def test_init_asks_on_a_terminal(mine, monkeypatch):
    monkeypatch.setattr("hast.cli.init._is_terminal", lambda: True)
    answers = ["python:mine:build", "", "n", "3x12x12", "", "0.5,0.5,0.5", "", "0"]
    run("init", typed="\n".join(answers) + "\n")
    spec = read_yaml(mine / "params.yaml")["teacher"]["spec"]
    assert spec["input_shape"] == [3, 12, 12]


@pytest.mark.parametrize(("target", "left"), [("onnxruntime", "HardSwish in act"), ("generic", "")])
def test_inspect_tells_what_a_target_will_compute_in_floating_point(mine, target, left):
    pytest.importorskip("onnxruntime", reason="onnxruntime is an optional extra")
    (mine / "swish.py").write_text(
        "from torch import nn\n"
        "from collections import OrderedDict as Named\n"
        "def build():\n"
        "    parts = dict(stem=nn.Conv2d(3, 4, 3), act=nn.Hardswish(), deep=nn.Conv2d(4, 4, 3),\n"
        "                 pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(4, 3))\n"
        "    return nn.Sequential(Named(parts))\n"
    )
    command = ["inspect", "python:swish:build", "--input-shape", "3x12x12", "--target", target]
    shown = run(*command).stdout
    assert ("In floating point for" in shown) == bool(left)
    assert left in shown
    expected = {"HardSwish": ["act"]} if left else None
    assert json.loads(run(*command, "--json").stdout)["float_operators"] == expected


def test_inspect_as_json_has_every_width(mine):
    command = ["inspect", "python:mine:build", "--input-shape", "3x12x12", "--json"]
    found = json.loads(run(*command).stdout)
    assert found["batch_norms"] == 1
    assert [*found["sizes"]] == ["fp32", *(f"w{b}a{b}" for b in range(2, 9))]
    sizes = [*found["sizes"].values()]
    assert sizes[1:] == sorted(sizes[1:])
    assert {layer["layer"] for layer in found["layers"]} == {"0", "5"}


def test_the_doctor_says_what_it_found_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setenv("HAST_DEVICE", "cuda:77")
    checks = {check.name: check for check in examine(tmp_path)}
    assert checks["python"].state == checks["torch"].state == "ok"
    for name in ("prefect", "device", "git", "dvc"):
        assert checks[name].state == "problem", name
        assert checks[name].advice
    assert "does not answer" in checks["prefect"].found


def test_the_doctor_ends_with_1_where_a_run_would_stop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checks = json.loads(run("doctor", "--json", code=1).stdout)
    states = {check["name"]: check["state"] for check in checks}
    assert states["dvc"] == "problem"


def test_the_doctor_knows_machines_on_which_others_stop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 54321)  # as in a container: no entry in /etc/passwd
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    (tmp_path / ".dvc/config").write_text(
        "[cache]\n    type = symlink\n[core]\n    no_scm = true\n"
    )
    (tmp_path / ".dvc/tmp/rwlock").write_text('{"write": {')
    (tmp_path / "stage.sh").write_text("python $1\n")
    checks = {check.name: check for check in examine(tmp_path)}
    states = {"cache": "problem", "dvc lock": "note", "user": "note", "home": "note"}
    states |= {"git": "note", "stage.sh": "note"}
    assert {name: checks[name].state for name in states} == states
    assert "dvc checkout --relink" in checks["cache"].advice
    assert "not that of hast" in checks["stage.sh"].found


def test_a_service_account_gets_what_the_programs_ask_for(tmp_path, monkeypatch):
    told = ("LOGNAME", "USER", "LNAME", "USERNAME", "PREFECT_HOME", "GIT_AUTHOR_EMAIL")
    for name in (*told, "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.setenv(name, "/dev/null")  # so that it is put back
    for name in told:
        monkeypatch.delenv(name)
    monkeypatch.setattr("os.getuid", lambda: 54321)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)
    complete_environment()
    assert getpass.getuser() == "uid54321"
    assert os.environ["PREFECT_HOME"] == str(tmp_path / ".prefect")
    assert os.environ["GIT_AUTHOR_EMAIL"] == "hast@localhost"


def test_the_shell_completes_commands_and_presets():
    asked = {"_HAST_COMPLETE": "complete_bash", "COMP_WORDS": "hast preset ", "COMP_CWORD": "2"}
    done = python("-c", "from hast.cli.main import app; app(prog_name='hast')", **asked)
    assert "cifar10_resnet20" in done.stdout.split()


def test_help_has_examples_and_exit_codes():
    assert "130 Ctrl-C" in " ".join(run("--help").stdout.replace("│", " ").split())
    for command in ("init", "inspect", "preset", "doctor", "results", "report"):
        assert f"hast {command}" in run(command, "--help").stdout


def test_the_plots_page_is_set_up_once_and_the_users_own_is_left_alone(tmp_path):
    (tmp_path / ".dvc").mkdir()
    template = set_up(tmp_path)
    text = template.read_text()
    assert "{plot_divs}" in text
    assert "vegaEmbed" in text
    assert "<script src" not in text
    template.write_text("kept")
    assert set_up(tmp_path).read_text() == "kept"
    (tmp_path / ".dvc/config.local").write_text("[plots]\nhtml_template = mine.html\n")
    assert set_up(tmp_path).name == "mine.html"
