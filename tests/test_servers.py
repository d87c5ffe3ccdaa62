"""The test bed itself: what is absent is said, what was started is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import servers
from tests.conftest import absent
from tests.servers import Absent, free_port, program, running


def test_what_is_absent_is_skipped_on_a_user_s_machine_and_fails_under_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not on this machine: a thing"):
        absent("a thing")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="not on this machine: a thing"):
        absent("a thing")


def test_a_skipped_test_is_told_loudly_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from tests.conftest import absent\n\n\ndef test_it():\n    absent('the program frobnicate')\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)]
    env = {name: value for name, value in os.environ.items() if name != "CI" and not name.startswith("PYTEST")}
    done = subprocess.run(command, cwd=servers.REPOSITORY, env=env, capture_output=True, text=True)
    assert "NOT TESTED HERE: the program frobnicate" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


def test_a_program_that_is_not_here_is_named() -> None:
    with pytest.raises(Absent, match="frobnicate"):
        program("frobnicate")


def test_a_program_that_does_not_start_says_what_it_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"]
    with (
        pytest.raises(RuntimeError, match=r"(?s)ended with 3.*the reason"),
        running(command, log=tmp_path / "log", is_ready=lambda: False),
    ):
        pass


def test_a_program_that_will_not_stop_is_killed_by_its_own_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "PATIENCE_SECONDS", 0.3)
    ready = tmp_path / "ready"
    stubborn = f"import signal, pathlib, time; signal.signal(15, signal.SIG_IGN); pathlib.Path({str(ready)!r}).touch()"
    command = [sys.executable, "-c", f"{stubborn}; time.sleep(60)"]
    with running(command, log=tmp_path / "log", is_ready=ready.exists) as process:
        assert process.poll() is None
    assert process.returncode == -signal.SIGKILL


def test_the_user_s_settings_reach_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("READINGROOM_DATABASE", "postgresql://the-users-own/archive")
    env = servers.environment({"port": free_port()})
    assert "READINGROOM_DATABASE" not in env
    assert env["READINGROOM_CONFIG"] == os.devnull
