import argparse
import json
import pickle

import pytest
import torch
from conftest import refused
from safetensors.torch import save, save_file
from students import observed
from torch import nn

from hast.engine.engine import place
from hast.errors import HastWarning, InputError
from hast.files.classifiers import load_classifier
from hast.files.students import StudentCard, load_student
from hast.files.teachers import load_teacher, save_teacher
from hast.files.weights import load_state, read_state, save_with_card
from hast.networks.digits_resnet import DigitsResNet
from hast.networks.fingerprint import fingerprint, rounding_between
from hast.networks.provenance import provenance_of

CPU = torch.device("cpu")


def holds_same(state, other):
    """Whatever wraps the names."""
    return fingerprint(state) == fingerprint(other)


@pytest.fixture
def folder(tmp_path, teacher, spec):
    source = "builtin:digits_resnet"
    save_teacher(tmp_path / "teacher", teacher, spec, source, {"widths": [8, 16]})
    return tmp_path / "teacher"


def test_a_teacher_comes_back_frozen_and_answers_the_same(folder, teacher):
    loaded = load_teacher(folder, CPU)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded.network(x), place(teacher, CPU)(x))
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())


def test_a_student_comes_back_and_answers_the_same(folder, tmp_path, teacher, spec):
    student = observed(teacher, spec, torch.randn(8, 1, 8, 8), "w3a4")
    source = load_teacher(folder, CPU)
    plan = provenance_of(student).plan
    card = StudentCard(bits="w3a4", plan=plan, teacher=source.card.fingerprint)
    save_with_card(tmp_path / "student", student, card)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(load_student(tmp_path / "student", source)(x), student(x))

    other = source._replace(card=source.card.model_copy(update={"fingerprint": "other"}))
    with refused(f"{source.card.fingerprint} but the teacher is other"):
        load_student(tmp_path / "student", other)


def test_fingerprints_tell_values_names_and_shapes_apart():
    a = torch.rand(4, dtype=torch.float64)
    others = [{"a": a + 1}, {"b": a}, {"a": a.view(2, 2)}, {"a": a.float()}, {"a": a.half()}]
    assert len({fingerprint(s) for s in [{"a": a}, *others]}) == 6
    assert fingerprint({"b": a, "a": a}) == fingerprint({"a": a, "b": a})


def test_one_network_has_one_fingerprint():
    a = torch.arange(4.0)
    same = [
        {"module.a": a}, {"_orig_mod.a": a}, {"a": a.double()}, {"a": a.half()},
        {"a": a, "num_batches_tracked": torch.ones(())}, {"a": a, "n_averaged": torch.ones(())},
    ]  # fmt: skip
    assert {fingerprint(s) for s in same} == {fingerprint({"a": a})}


def test_names_that_differ_by_a_wrapper_alone_are_two():
    a, b = torch.zeros(2), torch.ones(2)
    assert fingerprint({"a": a, "module.a": b}) != fingerprint({"a": b, "module.a": b})


def test_rounding_is_named_where_it_makes_another_teacher():
    full = {"a": torch.rand(9, generator=torch.Generator().manual_seed(0)), "n": torch.arange(3)}
    for dtype in (torch.float16, torch.bfloat16):
        name, rounded = str(dtype)[6:], {"a": full["a"].to(dtype), "n": full["n"]}
        assert f"a copy rounded to {name}" in rounding_between(fingerprint(rounded), full)
        assert f"rounded to {name}: a rounded" in rounding_between(fingerprint(full), rounded)
    assert rounding_between(fingerprint({"a": full["a"] + 1}), full) == ""


def test_changed_weights_do_not_pass_for_the_card(folder):
    state = read_state(folder / "model.safetensors")
    state["classifier.bias"] += 1
    save_file(state, folder / "model.safetensors")
    with refused(r"weights have fingerprint .* but the card says"):
        load_teacher(folder, CPU)


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("w.safetensors", lambda path: path.write_bytes(b"not a checkpoint at all")),
        ("w.pth", lambda path: path.write_bytes(b"not a checkpoint at all")),
        ("w.safetensors", lambda path: path.write_bytes(save({"a": torch.zeros(99)})[:-100])),
        ("w.pth", lambda path: torch.save(Payload(), path)),
        ("w.pth", lambda path: path.write_bytes(pickle.dumps(Payload()))),
    ],
    ids=["no safetensors", "no checkpoint", "truncated", "torch's pickle", "a pickle"],
)
def test_what_is_no_checkpoint_is_refused_and_nothing_is_unpickled(tmp_path, name, write):
    write(tmp_path / name)
    with refused("not a readable checkpoint|must hold a state dict of tensors, got builtins.exec"):
        read_state(tmp_path / name)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
        *(  # an averaged entry that has no weights is passed over
            lambda state, nothing=nothing: {"state_dict": state, "state_dict_ema": nothing}
            for nothing in (None, {}, {"decay": 0.9}, 0.9)
        ),
    ],
)
def test_common_wrappers_are_taken_off(tmp_path, teacher, wrap):
    torch.save(wrap(teacher.state_dict()), tmp_path / "w.pth")
    assert holds_same(read_state(tmp_path / "w.pth"), teacher.state_dict())


def averages(network):
    """What torch's AveragedModel saves; its weights are the network's times 3."""
    averaged = torch.optim.swa_utils.AveragedModel(network, use_buffers=True)
    with torch.no_grad():
        for tensor in averaged.module.state_dict().values():
            tensor.mul_(3)
    return averaged.state_dict()


def plain(state):
    return {k.removeprefix("module."): v for k, v in state.items() if k != "n_averaged"}


AVERAGED = {
    "timm": lambda raw, mean: {"state_dict": raw, "state_dict_ema": plain(mean)},
    "timm, distributed": lambda raw, mean: {
        "state_dict": {f"module.{k}": v for k, v in raw.items()},
        "state_dict_ema": {f"module.{k}": v for k, v in plain(mean).items()},
    },
    "torchvision": lambda raw, mean: {"model": raw, "model_ema": mean},
    "ConvNeXt": lambda raw, mean: {"model_ema": plain(mean), "model": raw},
    "RT-DETR": lambda raw, mean: {"model": raw, "ema": {"module": plain(mean), "updates": 7}},
    "wrapped": lambda raw, mean: {"net": raw, "ema": {"state_dict": mean, "decay": 0.9}},
    "plain torch": lambda raw, mean: {"model_state_dict": raw, "ema_state_dict": mean},
    "longer": lambda raw, mean: {"model_state_dict": raw, "model_ema_state_dict": mean},
    "long": lambda raw, mean: {"model": raw, "averaged_model": mean},
}


@pytest.mark.parametrize("layout", AVERAGED)
def test_averaged_weights_are_taken_and_said_and_each_can_be_named(tmp_path, teacher, layout):
    mean = averages(teacher)
    content = AVERAGED[layout](teacher.state_dict(), mean)
    raw, averaged = sorted(content, key=lambda name: "ema" in name or "averaged" in name)
    path = tmp_path / "w.pth"
    # As the training scripts write it: with arguments, and with an optimizer that has tensors too.
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), momentum=0.9)
    rest = {"epoch": 3, "args": argparse.Namespace(lr=0.1), "optimizer": optimizer.state_dict()}
    torch.save(content | rest, path)
    with pytest.warns(HastWarning) as said:
        assert holds_same(read_state(path), plain(mean))
    (line,) = [str(warning.message) for warning in said]
    others = f"`weights_entry: {raw}` takes the others"
    assert line == f"{path}: took the averaged weights, {averaged}; {others}"
    # Named, they are taken in silence: warnings are errors here.
    assert holds_same(read_state(path, averaged), plain(mean))
    assert holds_same(read_state(path, raw), teacher.state_dict())


def test_averaged_weights_alone_leave_no_choice_to_speak_of(tmp_path, teacher):
    for content in ({"model_ema": averages(teacher)}, averages(teacher)):
        torch.save(content, tmp_path / "w.pth")
        assert holds_same(read_state(tmp_path / "w.pth"), plain(averages(teacher)))


@pytest.mark.parametrize(
    "other",
    [
        lambda mean: {"shadow": {k: v for k, v in plain(mean).items() if "running" not in k}},
        lambda mean: {f"online_model.{k}": v for k, v in plain(mean).items()},
        # MMEngine swaps: what it calls ema_state_dict are the weights that are not averaged.
        lambda mean: {f"module.{k}": v for k, v in plain(mean).items()} | {"steps": torch.ones(())},
    ],
)
def test_averages_of_other_tensors_are_said_and_not_taken(tmp_path, teacher, other):
    path = tmp_path / "w.pth"
    mean = other(averages(teacher))
    torch.save({"state_dict": teacher.state_dict(), "ema_state_dict": mean}, path)
    said = "took state_dict, for ema_state_dict has other tensors; `weights_entry: ema_state_dict`"
    with pytest.warns(HastWarning, match=said):
        assert holds_same(read_state(path), teacher.state_dict())
    assert holds_same(read_state(path, "ema_state_dict"), mean.get("shadow", mean))


def test_an_entry_that_is_not_there_is_answered_with_those_that_are(tmp_path, teacher):
    path = tmp_path / "w.pth"
    content = {"epoch": 3, "optimizer": {"state": {}, "lr": 0.1}, "model_ema": averages(teacher)}
    torch.save(content | {"student": teacher.state_dict()}, path)
    with pytest.raises(InputError) as error:
        read_state(path, "model")
    assert str(error.value) == (
        f"{path}: weights_entry must be auto or one of model_ema, student; got 'model'"
    )
    assert holds_same(read_state(path, "student"), teacher.state_dict())


def test_an_entry_of_an_unknown_name_can_be_taken(tmp_path, teacher):
    torch.save({"best": teacher.state_dict(), "epoch": 3}, tmp_path / "w.pth")
    with refused("got dict; set weights_entry to one of best"):
        read_state(tmp_path / "w.pth")
    assert holds_same(read_state(tmp_path / "w.pth", "best"), teacher.state_dict())


@pytest.mark.parametrize(("name", "write"), [("w.pth", torch.save), ("w.safetensors", save_file)])
def test_a_file_that_is_one_state_dict_has_no_entries(tmp_path, teacher, name, write):
    write(teacher.state_dict(), tmp_path / name)
    assert holds_same(read_state(tmp_path / name), teacher.state_dict())
    with refused("weights_entry must be auto, as it has no entries; got"):
        read_state(tmp_path / name, "state_dict")


def test_a_classifier_is_built_with_the_weights_that_are_named(tmp_path, teacher):
    torch.save({"model": teacher.state_dict(), "model_ema": averages(teacher)}, tmp_path / "w.pth")
    options = {"weights": str(tmp_path / "w.pth"), "source_args": {"widths": [8, 16]}}
    raw = load_classifier("builtin:digits_resnet", weights_entry="model", **options)
    with pytest.warns(HastWarning, match="took the averaged weights"):
        averaged = load_classifier("builtin:digits_resnet", **options)
    assert holds_same(raw.network.state_dict(), teacher.state_dict())
    assert holds_same(averaged.network.state_dict(), plain(averages(teacher)))
    for weights in (None, "IMAGENET1K_V1"):
        with refused("weights_entry must be auto unless weights is a ch"):
            load_classifier("torchvision:resnet18", weights=weights, weights_entry="model")


def test_something_else_than_a_state_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "w.pth")
    with refused("must hold a state dict of tensors, got list"):
        read_state(tmp_path / "w.pth")


def test_weights_that_do_not_fit_are_named(teacher):
    state = dict(teacher.state_dict())
    state.pop("classifier.bias")
    state["stem.0.weight"] = torch.zeros(4, 3, 3, 3)
    state["extra"] = torch.zeros(1)
    with pytest.raises(InputError) as error:
        load_state(teacher, state, name="weights.pth")
    for part in (
        "weights.pth: weights do not fit DigitsResNet",
        'Missing key(s) in state_dict: "classifier.bias".',
        'Unexpected key(s) in state_dict: "extra".',
        "size mismatch for stem.0.weight: copying a param with shape torch.Size([4, 3, 3, 3])",
    ):
        assert part in str(error.value)


def test_absent_step_counters_are_allowed():
    network = DigitsResNet()
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("tracked")}
    load_state(network, state, name="x")
    with refused("Missing"):
        load_state(nn.Sequential(network), state, name="x")


def test_missing_files_are_said_plainly(tmp_path, folder):
    with refused("no such checkpoint file"):
        read_state(tmp_path / "nothing.safetensors")
    (folder / "card.json").unlink()
    with refused("no such file; run `dvc repro`"):
        load_teacher(folder, CPU)


def test_a_malformed_card_is_refused(folder):
    card = json.loads((folder / "card.json").read_text())
    card["spec"]["num_classes"] = 1
    (folder / "card.json").write_text(json.dumps(card))
    with refused(r"card\.json: card\.spec\.num_classes: .*greater than or equal"):
        load_teacher(folder, CPU)
