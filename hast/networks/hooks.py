"""Hooks that never outlive their purpose."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch.utils.hooks import RemovableHandle


@contextmanager
def removed_at_exit(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove the hooks behind `handles` when the context ends, however it ends."""
    handles = list(handles)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
