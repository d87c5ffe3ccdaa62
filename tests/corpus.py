"""The shared corpus of real DICOM files: at ``READINGROOM_CORPUS``, else at ``../shared/corpus`` beside the repository.

A test that needs it asks for the fixture `corpus`, which skips the test (with ``CI=true`` fails it) where it is absent;
`each_file` gives such a test one file at a time.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("READINGROOM_CORPUS") or Path(__file__).resolve().parents[2] / "shared" / "corpus")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of the corpus and what its manifest says of it."""

    name: str
    path: Path
    sop_class: str
    transfer_syntax: str
    why: str

    def read(self) -> bytes:
        return self.path.read_bytes()


@cache
def entries() -> tuple[Entry, ...]:
    """The DICOM files of the corpus in the order of its manifest; none where it is absent."""
    manifest = FOLDER / "MANIFEST.tsv"
    if not manifest.is_file():
        return ()
    with manifest.open(newline="", encoding="utf-8") as lines:
        return tuple(
            Entry(
                name=row["path"].removeprefix("dicom/"),
                path=FOLDER / row["path"],
                sop_class=row["sop_class"],
                transfer_syntax=row["transfer_syntax"],
                why=row["why"],
            )
            for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            if row["path"].startswith("dicom/")
        )


def dicom_files() -> tuple[Path, ...]:
    """The paths of the DICOM files of the corpus; none where it is absent."""
    return tuple(entry.path for entry in entries())


def each_file(*names: str) -> pytest.MarkDecorator:
    """Run a test once for each file as ``entry``, or for those whose names end in `names`.

    The test also asks for the fixture `corpus`, which says what happens where there is none.
    """
    chosen = [entry for entry in entries() if not names or entry.name.endswith(names)]
    return pytest.mark.parametrize("entry", chosen or [None], ids=lambda entry: entry.name if entry else "absent")


def fhir_examples() -> tuple[Path, ...]:
    """The official examples of FHIR R4, and some others, as JSON; none where the corpus is absent."""
    return tuple(sorted((FOLDER / "fhir").glob("*/*.json")))


def each_example(*types: str) -> pytest.MarkDecorator:
    """Run a test once for each example as ``example``, or for those of `types`; the test asks for `corpus` as well."""
    chosen = [path for path in fhir_examples() if not types or path.name.split("-")[0] in types]
    return pytest.mark.parametrize("example", chosen or [None], ids=lambda path: path.stem if path else "absent")


def corpus_file(name: str) -> bytes:
    """The one file whose name ends in `name`."""
    (entry,) = (entry for entry in entries() if entry.name.endswith(name))
    return entry.read()
