"""Every name of the contract that is going away, in one place: what to use instead, and when it goes.

A deprecated name works until the next major version, and warns where it is imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass


class ReadingRoomDeprecationWarning(DeprecationWarning):
    """Something of the contract will be gone in its next major version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deprecation:
    """One name that is going away: the attribute of `readingroom` that it now stands for, and since when."""

    instead: str
    since: str


NAMES: Mapping[str, Deprecation] = {}


def replacement(name: str, names: Mapping[str, Deprecation] = NAMES) -> str:
    """The name that stands for a deprecated one, with a warning; raises `AttributeError` where there is none."""
    if name not in names:
        raise AttributeError(f"module 'readingroom' has no attribute {name!r}")
    told = names[name]
    message = f"readingroom.{name} is deprecated since {told.since}; use readingroom.{told.instead}."
    warnings.warn(message, ReadingRoomDeprecationWarning, stacklevel=3)
    return told.instead
