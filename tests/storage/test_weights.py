import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hast.bit_width import BitWidth
from hast.engine import place
from hast.errors import InputError
from hast.networks.digits_resnet import DigitsResNet
from hast.networks.fingerprint import fingerprint
from hast.networks.plan import PlanConfig, plan_quantization
from hast.networks.student import prepare_student, set_mode
from hast.storage.students import StudentCard, load_student
from hast.storage.teachers import TeacherCard, load_teacher
from hast.storage.weights import load_state, read_state, save_with_card

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, teacher, spec):
    card = TeacherCard(
        source="builtin:digits_resnet",
        source_args={"widths": [4, 8]},
        spec=spec,
        fingerprint=fingerprint(teacher.state_dict()),
    )
    save_with_card(tmp_path / "teacher", teacher, card)
    return tmp_path / "teacher"


def test_a_teacher_comes_back_frozen_and_answers_the_same(folder, teacher):
    loaded = load_teacher(folder, CPU)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(loaded.network(x), place(teacher, CPU)(x))
    assert not loaded.network.training
    assert not any(p.requires_grad for p in loaded.network.parameters())


def test_a_student_comes_back_and_answers_the_same(folder, tmp_path, teacher, spec):
    plan = plan_quantization(teacher, spec, BitWidth(3, 4), PlanConfig(placement="inputs"))
    student = prepare_student(teacher, spec, plan)
    set_mode(student, "observe")
    student(torch.randn(8, 1, 8, 8))
    set_mode(student, "quantize")
    source = load_teacher(folder, CPU)
    card = StudentCard(bits="w3a4", plan=plan, teacher=source.card.fingerprint)
    save_with_card(tmp_path / "student", student, card)
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(load_student(tmp_path / "student", source, CPU)(x), student(x))

    other = source._replace(card=source.card.model_copy(update={"fingerprint": "other"}))
    with pytest.raises(InputError, match=f"{source.card.fingerprint} but the teacher is other"):
        load_student(tmp_path / "student", other, CPU)


def test_fingerprints_tell_values_names_and_shapes_apart():
    base = {"a": torch.arange(4.0)}
    variants = [
        {"a": torch.arange(4.0) + 1},
        {"b": torch.arange(4.0)},
        {"a": torch.arange(4.0).view(2, 2)},
        {"a": torch.arange(4.0).double()},
    ]
    assert len({fingerprint(s) for s in [base, *variants]}) == 5
    assert fingerprint({"b": base["a"], "a": base["a"]}) == fingerprint(
        {"a": base["a"], "b": base["a"]}
    )


def test_changed_weights_do_not_pass_for_the_card(folder):
    state = read_state(folder / "model.safetensors")
    state["classifier.bias"] += 1
    save_file(state, folder / "model.safetensors")
    with pytest.raises(InputError, match=r"weights have fingerprint .* but the card says"):
        load_teacher(folder, CPU)


@pytest.mark.parametrize("name", ["model.safetensors", "weights.pth"])
def test_corrupt_files_are_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(InputError, match="not a readable checkpoint") as error:
        read_state(path)
    assert "\n" not in str(error.value)


def test_a_truncated_safetensors_file_is_refused(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a readable checkpoint"):
        load_teacher(folder, CPU)


class Payload:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize("save", [torch.save, lambda o, p: p.write_bytes(pickle.dumps(o))])
def test_nothing_is_unpickled(tmp_path, save):
    path = tmp_path / "evil.pth"
    save(Payload(), path)
    with pytest.raises(InputError, match="not a readable checkpoint"):
        read_state(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": {f"module.{k}": v for k, v in state.items()}},
    ],
)
def test_common_wrappers_are_taken_off(tmp_path, teacher, wrap):
    torch.save(wrap(teacher.state_dict()), tmp_path / "w.pth")
    state = read_state(tmp_path / "w.pth")
    assert fingerprint(state) == fingerprint(teacher.state_dict())


def test_something_else_than_a_state_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "w.pth")
    with pytest.raises(InputError, match="must hold a state dict of tensors, got list"):
        read_state(tmp_path / "w.pth")


def test_weights_that_do_not_fit_are_named(teacher):
    state = dict(teacher.state_dict())
    state.pop("classifier.bias")
    state["stem.0.weight"] = torch.zeros(4, 3, 3, 3)
    state["extra"] = torch.zeros(1)
    with pytest.raises(InputError) as error:
        load_state(teacher, state, name="weights.pth")
    message = str(error.value)
    assert "weights.pth: weights do not fit DigitsResNet" in message
    assert "missing: classifier.bias" in message
    assert "unknown: extra" in message
    assert "stem.0.weight is (4, 3, 3, 3), the network has (4, 1, 3, 3)" in message


def test_absent_step_counters_are_allowed():
    network = DigitsResNet()
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("tracked")}
    load_state(network, state, name="x")
    with pytest.raises(InputError, match="missing"):
        load_state(nn.Sequential(network), state, name="x")


def test_missing_files_are_said_plainly(tmp_path, folder):
    with pytest.raises(InputError, match="no such checkpoint file"):
        read_state(tmp_path / "nothing.safetensors")
    (folder / "card.json").unlink()
    with pytest.raises(InputError, match="no such file; run `dvc repro`"):
        load_teacher(folder, CPU)


def test_a_malformed_card_is_refused(folder):
    card = json.loads((folder / "card.json").read_text())
    card["spec"]["num_classes"] = 1
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(InputError, match=r"card\.json: spec\.num_classes: .*greater than or equal"):
        load_teacher(folder, CPU)
