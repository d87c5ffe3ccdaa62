"""A report of two pages set as PDF in a process of its own: the first one, with the fonts to be found, and the next."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from statistics import median
from time import perf_counter

from benchmarks.measure import Goal, Result, Row
from readingroom.model import Passage, Report, Section, Signature

NAME = "report-pdf"
ROWS = (
    Row(title="a report as PDF, the first of a process"),
    Row(title="a report as PDF, p50 of those after it", goals=(Goal(limit=150),), aims=(Goal(limit=50),)),
)
_AFTER = 50


def made() -> Report:
    """A report of some 500 words in three scripts."""
    at = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
    told = "The lungs are clear. There is no pleural effusion, no pneumothorax and no consolidation. "
    words = told * 30 + "\nΑκτινογραφία θώρακος.\nРентгенограмма грудной клетки."
    return Report(
        id="0" * 32,
        facility="bench",
        facility_name="Bench Hospital",
        status="final",
        number=1,
        patient_id="P1",
        patient_name="Phantom^Ada",
        sections=(
            Section(name="findings", title="Findings", passages=(Passage(text=words),)),
            Section(name="impression", title="Impression", passages=(Passage(text="Normal chest."),)),
        ),
        signatures=(Signature(reader="ada", name="Ada Byron, MD", role="attending", at=at),),
        signed_at=at,
    )


def measure(rounds: int) -> list[Result]:
    """A result for each row."""
    results = [Result(row=row, kinds={"readingroom": "readingroom"}) for row in ROWS]
    for _ in range(rounds):
        command = [sys.executable, "-m", "benchmarks.reports"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        for result, figure in zip(results, map(float, told.split()), strict=True):
            result.values.setdefault("readingroom", []).append(figure)
    return results


def main() -> None:
    """Print what the first took, and the median of those after it, in milliseconds."""
    from server.reports.documents import pdf

    report = made()
    took = []
    for _ in range(1 + _AFTER):
        begun = perf_counter()
        pdf.render(report)
        took.append((perf_counter() - begun) * 1000)
    print(took[0], median(took[1:]))


if __name__ == "__main__":
    main()
