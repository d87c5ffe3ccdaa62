"""The edge in a process of its own, to be killed: all that it imports is there before, so that it starts at once."""

from __future__ import annotations

import os
from typing import Any

import server.associations.requesting
import server.dimse.server
import server.dimse.services
import server.dimse.storing
import server.peers
import server.relaying
import server.spooling
import server.worklist.hours  # noqa: F401
from server.edge_command import run
from server.settings import Settings


def serve(given: dict[str, Any]) -> None:
    """As `readingroom edge` does, until it is killed."""
    os.environ["READINGROOM_CONFIG"] = os.devnull
    run(Settings(**given))
