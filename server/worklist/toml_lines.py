"""On which line of a TOML file each of its keys stands; no parser that comes along keeps that."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping, Sequence

Path = tuple[str | int, ...]
"""Keys and the indexes of arrays, from the top of the document."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"[A-Za-z0-9_-]+|\"(?:[^\"\\\n]|\\.)*\"|'[^'\n]*'")
_BETWEEN_KEYS = re.compile(r"[ \t]*\.[ \t]*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})' + r"|'''.*?'''(?:'{0,2})" + r'|"(?:[^"\\\n]|\\.)*"' + r"|'[^'\n]*'", re.DOTALL
)
_BARE = re.compile(r"[^,\]}#\n]+")


def lines_of(text: str) -> Mapping[Path, int]:
    """The 1-based line of each key, each table and each element of an array of a text that is valid TOML."""
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


def line_of(lines: Mapping[Path, int], path: Sequence[str | int]) -> int:
    """The line of a path, or of as much of it as is there."""
    for length in range(len(path), 0, -1):
        if tuple(path[:length]) in lines:
            return lines[tuple(path[:length])]
    return 1


class _Scanner:
    """Walks over a text that `tomllib` has taken, so that it need not ask whether it is right."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._at = 0
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._last: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            table = self._header() if self._text[self._at] == "[" else table
            if self._at < len(self._text) and self._text[self._at] != "[":
                self._pair(table)
            self._skip(_BLANK)

    def _header(self) -> Path:
        line, is_array = self._line(), self._text.startswith("[[", self._at)
        self._at += 2 if is_array else 1
        self._skip(_BLANK)
        keys, path = self._keys(), Path()
        for number, key in enumerate(keys):
            path += (key,)
            if is_array and number == len(keys) - 1:
                self._last[path] = self._last.get(path, -1) + 1
            if path in self._last:
                self.lines.setdefault(path, line)
                path += (self._last[path],)
            self.lines.setdefault(path, line)
        self._skip(_BLANK)
        self._at += 2 if is_array else 1
        self._skip(_BLANK)
        return path

    def _pair(self, table: Path) -> None:
        line, path = self._line(), table
        for key in self._keys():
            path += (key,)
            self.lines.setdefault(path, line)
        self._skip(_BLANK)
        self._at += 1  # =
        self._skip(_BLANK)
        self._value(path)

    def _value(self, path: Path) -> None:
        opening = self._text[self._at]
        if opening in "[{":
            self._at += 1
            self._skip(_BLANK)
            number = 0
            while self._text[self._at] not in "]}":
                if opening == "{":
                    self._pair(path)
                else:
                    self.lines[(*path, number)] = self._line()
                    self._value((*path, number))
                number += 1
                self._skip(_BLANK)
                if self._text[self._at] == ",":
                    self._at += 1
                    self._skip(_BLANK)
            self._at += 1
        else:
            self._skip(_STRING if opening in "\"'" else _BARE)

    def _keys(self) -> list[str]:
        keys = []
        while True:
            found = _KEY.match(self._text, self._at)
            assert found is not None, "tomllib has taken it"
            self._at = found.end()
            keys.append(next(iter(tomllib.loads(f"{found[0]} = 0"))))
            between = _BETWEEN_KEYS.match(self._text, self._at)
            if between is None:
                return keys
            self._at = between.end()

    def _line(self) -> int:
        return bisect_right(self._ends, self._at - 1) + 1

    def _skip(self, what: re.Pattern[str]) -> None:
        found = what.match(self._text, self._at)
        assert found is not None, "tomllib has taken it"
        self._at = found.end()
