"""Which tasks may share a device."""

import pytest

from flows.devices import ensure_limits
from hast.errors import InputError


@pytest.mark.parametrize("value", ["two", "0", "-1", "1.5", ""])
def test_a_number_of_tasks_that_is_none_is_refused_before_any_server_is_asked(value, monkeypatch):
    monkeypatch.setenv("HAST_TASKS_PER_DEVICE", value)
    with pytest.raises(InputError, match=f"must be a positive number, got '{value}'"):
        ensure_limits(["cpu:here"])
