"""Checkpoints as training scripts write them, read by the names that a network has."""

import argparse
import collections
import enum
import os
import pathlib

import numpy as np
import pytest
import torch
from conftest import refused
from torch import nn

from hast.errors import HastWarning
from hast.files.classifiers import load_classifier
from hast.files.weights import read_state
from hast.networks.digits_resnet import DigitsResNet


class Config:
    def __init__(self):
        self.rate = 0.1


class AttributeDict(dict):
    """As Lightning keeps hyperparameters in."""


class Names(list):
    pass


class Mode(enum.Enum):
    MAX = "max"


class Runs:
    def __reduce__(self):
        return exec, ("raise SystemExit('it ran')",)


def network():
    torch.manual_seed(1)
    return DigitsResNet(widths=[8, 16])


def under(prefix, state):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def load(content, path, **how):
    torch.save(content, path, **how)
    return load_classifier(
        "builtin:digits_resnet", weights=str(path), source_args={"widths": [8, 16]}
    ).network


def is_same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


BESIDE = {
    "a namespace": argparse.Namespace(lr=0.1),
    "an object": Config(),
    "nested hyperparameters": AttributeDict(model=AttributeDict(depth=3)),
    "a dict with a default": collections.defaultdict(list, {"a": [1]}),
    "a list of their own": Names(["a"]),
    "a path": pathlib.Path("runs/1"),
    "a number of numpy's": np.float64(0.3),
    "an array": np.zeros(3),
    "a choice": Mode.MAX,
    "an optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), momentum=0.9),
    "code": Runs(),
    "a class": Config,
}


@pytest.mark.parametrize("what", BESIDE)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_what_lies_beside_the_weights_is_neither_read_nor_run(tmp_path, what, zipped):
    content = {"model": network().state_dict(), "epoch": 3, "beside": BESIDE[what]}
    read = load(content, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    assert is_same(read, network())


class Commands:
    def __reduce__(self):
        return os.system, ("echo it ran",)


def test_commands_are_refused_and_not_run(tmp_path, capfd):
    with refused(r"it holds (posix|nt)\.system, which is not read; save the state_dict\(\) alone"):
        load({"model": network().state_dict(), "beside": Commands()}, tmp_path / "w.pth")
    assert "it ran" not in capfd.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_rounded_values_are_read_into_float32(tmp_path, dtype):
    read = load(network().to(dtype).state_dict(), tmp_path / "w.pth")
    assert is_same(read, network().to(dtype).float())


@pytest.mark.parametrize("content", [network, lambda: {"model": network(), "epoch": 3}])
def test_a_whole_network_is_named_with_the_way_out(tmp_path, content):
    with refused(r"got hast\.networks\.digits_resnet\.DigitsResNet, whose code is not run; where"):
        load(content(), tmp_path / "w.pth")


@pytest.mark.filterwarnings(
    "ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning"
)
def test_a_scripted_network_is_named_with_the_way_out(tmp_path):
    linear = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(linear, tmp_path / "w.pth")
    with refused(r"a TorchScript archive; save torch\.jit\.load\(\.\.\.\)\.state_dict\(\)"):
        load_classifier("builtin:digits_resnet", weights=str(tmp_path / "w.pth"))


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: under("module.", state),
        lambda state: under("module._orig_mod.", state),
        lambda state: under("_fsdp_wrapped_module._checkpoint_wrapped_module.", state),
        lambda state: {n.replace("stages.", "stages.module."): t for n, t in state.items()},
        lambda state: torch.optim.swa_utils.AveragedModel(network()).state_dict(),
        lambda state: {n: t for n, t in state.items() if "tracked" not in n},
    ],
    ids=[
        "parallel",
        "parallel and compiled",
        "sharded",
        "a part parallel",
        "averaged",
        "no counters",
    ],
)
def test_what_torch_wraps_around_a_network_goes_in_silence(tmp_path, wrapped):
    read = load(wrapped(network().state_dict()), tmp_path / "w.pth")
    assert is_same(read, network())


@pytest.mark.parametrize("prefix", ["model.", "net.module.", "backbone._orig_mod.", "a.b."])
def test_a_prefix_is_found_and_said(tmp_path, prefix):
    state = under(prefix, network().state_dict())
    others = {"loss.weight": torch.ones(3), "model_ema.decay": torch.ones(())}
    with pytest.warns(HastWarning) as said:
        read = load({"state_dict": state | others}, tmp_path / "w.pth")
    assert is_same(read, network())
    taken = prefix.replace("module.", "").replace("_orig_mod.", "")
    weights = sum("tracked" not in name for name in state)
    assert str(said[0].message) == (
        f"{tmp_path / 'w.pth'}: took {taken!r} off the names of {weights} tensors, and left out"
        " loss.weight, model_ema.decay"
    )


def test_a_network_that_is_there_twice_is_not_chosen_by_chance(tmp_path):
    state = network().state_dict()
    with refused(r"holds the network twice, below 'student\.' and 'teacher\.'"):
        load(under("student.", state) | under("teacher.", state), tmp_path / "w.pth")


def test_a_prefix_that_most_names_have_leaves_the_others(tmp_path):
    state = network().state_dict()
    head = {name: tensor for name, tensor in state.items() if name.startswith("classifier")}
    body = {name: tensor for name, tensor in state.items() if name not in head}
    with pytest.warns(HastWarning, match=r"took 'model\.' off the names of \d+ tensors$"):
        assert is_same(load(under("model.", body) | head, tmp_path / "w.pth"), network())


def test_what_is_no_file_of_torch_says_so(tmp_path):
    (tmp_path / "w.pth").write_text("<!DOCTYPE html>")
    with refused("it is no file of torch.save; a web page, perhaps"):
        read_state(tmp_path / "w.pth")


def test_what_is_no_tensor_is_named(tmp_path):
    with refused("got OrderedDict with 'epoch', which is no named tensor"):
        load(network().state_dict() | {"epoch": 3}, tmp_path / "w.pth")


def test_a_prefix_does_not_hide_what_is_missing(tmp_path):
    state = under("model.", network().state_dict())
    del state["model.classifier.bias"]
    with (
        pytest.warns(HastWarning, match="took 'model.'"),
        refused(r'do not fit DigitsResNet: Missing key\(s\) in state_dict: "classifier.bias"'),
    ):
        load(state, tmp_path / "w.pth")
