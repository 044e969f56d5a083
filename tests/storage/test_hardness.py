import pytest
import torch

from hast.errors import InputError
from hast.storage.hardness import load_hardness, save_hardness


def test_scores_come_back_and_know_their_bank(tmp_path):
    values = torch.rand(50)
    save_hardness(tmp_path / "h.zarr", {"difficulty": values, "zeros": values * 0}, bank="abc")
    assert torch.equal(load_hardness(tmp_path / "h.zarr", "difficulty", bank="abc"), values)
    assert torch.equal(load_hardness(tmp_path / "h.zarr", "zeros", bank="abc"), values * 0)
    with pytest.raises(InputError, match="scores belong to bank 'abc', not to 'xyz'"):
        load_hardness(tmp_path / "h.zarr", "difficulty", bank="xyz")
    with pytest.raises(InputError, match="no hardness scores"):
        load_hardness(tmp_path / "other.zarr", "difficulty", bank="abc")
