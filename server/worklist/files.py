"""Files that a person writes: read as TOML, and whatever is wrong in one told with its file and line."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from readingroom.errors import Invalid, NotFound
from server.worklist import toml_lines

_MOST_BYTES = 32 << 20
_SHOWN = 100


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Problem:
    """Something that is wrong in a file, on a line."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


class WrongFile(Invalid):
    """Files are not right; `problems` has all that is wrong with them. `what` begins the message: "The prices are"."""

    def __init__(self, what: str, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems))
        more = f" (and {len(problems) - _SHOWN} more)" if len(problems) > _SHOWN else ""
        super().__init__("\n".join([f"{what} not right:", *map(str, self.problems[:_SHOWN])]) + more)


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands: in a file, and on which line each part of it does."""

    file: str
    line_of: Callable[[Sequence[str | int]], int]

    def problem(self, what: str, *path: str | int) -> Problem:
        """What is wrong with a part."""
        return Problem(file=self.file, line=self.line_of(path), what=what)

    def within(self, *prefix: str | int) -> Place:
        """Where the parts of a part stand."""
        return Place(self.file, lambda path: self.line_of((*prefix, *path)))


def read_toml(problems: list[Problem], path: Path) -> tuple[dict[str, Any], Place] | None:
    """What a file says, and where it stands; None where it is no TOML, which is noted. Raises `NotFound`."""
    if not path.is_file():
        raise NotFound(f"There is no file {path}.")
    text = text_of(problems, path)
    if text is None:
        return None
    try:
        document = tomllib.loads(text)
        lines = toml_lines.lines_of(text)
    except tomllib.TOMLDecodeError as error:
        line, what = _syntax_error(str(error), text)
        problems.append(Problem(file=str(path), line=line, what=f"this is no TOML: {what}"))
        return None
    except RecursionError:
        problems.append(Problem(file=str(path), line=1, what="this is nested too deep"))
        return None
    return document, Place(str(path), lambda path: toml_lines.line_of(lines, path))


def text_of(problems: list[Problem], path: Path) -> str | None:
    """The text of a file; None where it has none, which is noted."""
    if path.stat().st_size > _MOST_BYTES:
        problems.append(Problem(file=str(path), line=1, what=f"a file has at most {_MOST_BYTES:,} bytes"))
        return None
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(Problem(file=str(path), line=line, what="this is no UTF-8"))
        return None


def said(error: Any) -> str:
    """What pydantic says, in the words of a file."""
    messages = {"missing": "is missing", "extra_forbidden": "there is no such key here"}
    return str(messages.get(error["type"], error["msg"].removeprefix("Value error, ")))


def _syntax_error(said: str, text: str) -> tuple[int, str]:
    """The line that `tomllib` names in its message, and what it says but for that."""
    what, _, at = said.rpartition(" (at line ")
    number = at.partition(",")[0]
    if number.isdecimal():
        return int(number), what
    return text.count("\n") + 1, said.removesuffix(" (at end of document)") + ", at the end of the file"
