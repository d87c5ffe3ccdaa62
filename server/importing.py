"""Stores what lies on a disk: groups of objects, each one flush and one transaction."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from server.ingest import Ingest
from server.media import Candidate, Unreadable, find

GROUP = 64
GROUP_BYTES = 64 << 20


@dataclass(slots=True)
class Tally:
    """What came of an import so far: how many were stored, identical ...; what was no DICOM; what failed and why."""

    results: Counter[str] = field(default_factory=Counter)
    skipped: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)

    @property
    def seen(self) -> int:
        """Files and members that have been dealt with."""
        return self.results.total() + self.skipped + len(self.failures)

    def to_json(self) -> dict[str, Any]:
        """For ``--report``."""
        return {
            "results": dict(self.results),
            "skipped": self.skipped,
            "failed": len(self.failures),
            "failures": [{"name": name, "reason": reason} for name, reason in self.failures],
        }


def import_paths(
    ingest: Ingest,
    paths: Sequence[Path],
    tally: Tally,
    *,
    facility: str,
    source: str,
    max_bytes: int,
    advance: Callable[[int], None],
) -> None:
    """Store every object below `paths`; what `tally` counts as stored is durable.

    Interrupted, it stores no more than the group it is at; run again, it finds what is stored identical.

    Parameters
    ----------
    advance
        Told the bytes that were gone through, as they are dealt with.
    """
    with tempfile.TemporaryDirectory(prefix="readingroom-") as spool:
        waiting: list[Candidate] = []
        for found in find(paths, Path(spool), max_bytes=max_bytes):
            if isinstance(found, Candidate):
                waiting.append(found)
                if len(waiting) < GROUP and sum(one.held_bytes for one in waiting) < GROUP_BYTES:
                    continue
                _store(ingest, waiting, tally, facility=facility, source=source)
                advance(sum(one.weight for one in waiting))
                waiting = []
            else:
                if isinstance(found, Unreadable):
                    tally.failures.append((found.name, found.reason))
                else:
                    tally.skipped += 1
                advance(found.weight)
        _store(ingest, waiting, tally, facility=facility, source=source)
        advance(sum(one.weight for one in waiting))


def _store(ingest: Ingest, group: Sequence[Candidate], tally: Tally, *, facility: str, source: str) -> None:
    outcomes = ingest.store([one.body for one in group], facility=facility, source=source)
    for one, outcome in zip(group, outcomes, strict=True):
        if outcome.result is not None:
            tally.results[outcome.result] += 1
        if outcome.error is not None:
            tally.failures.append((one.name, outcome.error.message))
        one.discard()
