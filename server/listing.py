"""Lists what is stored by attributes that became searchable after it came, a little in each round of the timer."""

from __future__ import annotations

import time

from server.room import Room
from storage.catalog.listed import list_stored, sync_keys

_ROUND_SECONDS = 0.5
"""Of each second; the rest is for who waits for the database."""


def list_attributes(room: Room) -> bool:
    """Take note of what is configured, and list some of what is stored; says whether there is more to do."""
    sync_keys(room.engine, [attribute.key for attribute in room.settings.search_attributes])
    until = time.monotonic() + _ROUND_SECONDS
    has_more = list_stored(room.engine)
    while has_more and time.monotonic() < until:
        has_more = list_stored(room.engine)
    return has_more
