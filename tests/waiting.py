"""Waits for what a live server does in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_SECONDS = 120.0


def expect[T](read: Callable[[], T], is_right: Callable[[T], bool], what: str) -> T:
    """Read until it is right."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not is_right(seen := read()):
        assert time.monotonic() < give_up, f"{seen!r:.2000} is not {what}"
        time.sleep(0.1)
    return seen
