"""What a server's start does not wait for."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("heavy", ["alembic", "fhir.resources", "joserfc", "zarr"])
def test_what_takes_long_to_load_is_loaded_when_it_is_needed(heavy: str) -> None:
    asked = f"import sys, server.app; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], timeout=60).returncode == 0
