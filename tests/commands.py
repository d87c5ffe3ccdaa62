"""Commands run to their end in this process, as an operator types them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from server import cli
from tests.servers import REPOSITORY


@dataclass(frozen=True, slots=True)
class Printed:
    """What a command printed; `words` is its answer on one line, however it was wrapped."""

    out: str
    err: str

    @property
    def words(self) -> str:
        return " ".join(self.out.split())


class Run(Protocol):
    """Runs a command to its end in this process, checks its exit status, and gives what it printed."""

    def __call__(
        self, *arguments: str | Path, env: Mapping[str, str] = ..., status: int = 0, cwd: Path = REPOSITORY
    ) -> Printed: ...


def runner(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """What runs them; see `Run`."""

    def run(
        *arguments: str | Path, env: Mapping[str, str] | None = None, status: int = 0, cwd: Path = REPOSITORY
    ) -> Printed:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["readingroom", *map(str, arguments)])
            patch.setattr(cli.out, "width", 200)
            patch.setenv("READINGROOM_CONFIG", os.devnull)
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            patch.chdir(cwd)
            try:
                cli.main()
                ended: object = 0
            except SystemExit as exit_:
                ended = exit_.code or 0
        printed = Printed(*capsys.readouterr())
        assert ended == status, printed.out + printed.err
        return printed

    return run
