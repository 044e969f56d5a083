import torch
from conftest import refused

from hast.files.hardness import load_hardness, save_hardness


def test_scores_come_back_and_know_their_bank(tmp_path):
    path, values = tmp_path / "scores/h.safetensors", torch.rand(50)
    save_hardness(path, values, bank="abc")
    assert torch.equal(load_hardness(path, bank="abc"), values)
    with refused("scores belong to bank 'abc', not to 'xyz'"):
        load_hardness(path, bank="xyz")
    with refused(r"cannot be read \(No such file.*; rerun `dvc repro score`"):
        load_hardness(tmp_path / "other", bank="abc")
    path.write_bytes(path.read_bytes()[:40])
    with refused(r"cannot be read .*; rerun `dvc repro score`"):
        load_hardness(path, bank="abc")
