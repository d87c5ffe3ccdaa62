"""Searching an index of many studies, as worklists and viewers do."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from itertools import chain
from statistics import median
from typing import Any

from benchmarks.client import Reply, WrongAnswer, crowd
from benchmarks.measure import Goal, Row, Sample, Workload, latencies, percentile
from benchmarks.peers import Peer
from benchmarks.phantom import SmallStudy

JSON = "application/dicom+json"
FIRST_DATE, LAST_DATE, MODALITY, ROWS = "20210601", "20210831", "CT", 25
OHIF_FIELDS = "includefield=00081030,00080060"  # as OHIF asks; Orthanc 1.10 does not take the comma percent-encoded

Ask = tuple[str, Callable[[list[Any]], bool]]
"""A query, and whether its rows are right."""


def _value(row: Any, tag: str) -> Any:
    return row.get(tag, {}).get("Value", [None])[0]


def _is_only(study: SmallStudy) -> Callable[[list[Any]], bool]:
    return lambda rows: [_value(row, "0020000D") for row in rows] == [study.study_uid]


def by_uid(number: int) -> Ask:
    """Ask for one study by its UID."""
    study = SmallStudy(number=number)
    return f"StudyInstanceUID={study.study_uid}", _is_only(study)


def by_accession(number: int) -> Ask:
    """Ask for one study by its accession number."""
    study = SmallStudy(number=number)
    return f"AccessionNumber={study.accession}", _is_only(study)


def by_date_and_modality(_: int) -> Ask:
    """Ask for the first rows of three months of one modality."""

    def is_right(rows: list[Any]) -> bool:
        dates = [_value(row, "00080020") for row in rows]
        modalities = [row.get("00080061", {}).get("Value", []) for row in rows]
        return (
            len({_value(row, "0020000D") for row in rows}) == ROWS
            and all(FIRST_DATE <= date <= LAST_DATE for date in dates)
            and all(MODALITY in held for held in modalities)
        )

    return f"StudyDate={FIRST_DATE}-{LAST_DATE}&ModalitiesInStudy={MODALITY}&limit={ROWS}", is_right


def _page(offset: int) -> Ask:
    def is_right(rows: list[Any]) -> bool:
        described = all(_value(row, "00081030") for row in rows)
        return described and len({_value(row, "0020000D") for row in rows}) == 100

    return f"limit=100&offset={offset}&fuzzymatching=false&{OHIF_FIELDS}", is_right


def _check(is_right: Callable[[list[Any]], bool], query: str) -> Callable[[Reply], None]:
    def check(reply: Reply) -> None:
        rows = json.loads(bytes(reply.expect(200).body))
        if not is_right(rows):
            raise WrongAnswer(f"{len(rows)} rows that are not what {query} asks for")

    return check


def _searching(make: Callable[[int], Ask], studies: int, *, count: int, seed: int) -> Callable[[Peer], list[float]]:
    """Ask `count` different questions, the same for every peer and other ones in every process."""

    def run(peer: Peer) -> list[float]:
        draw = random.Random(seed)
        asks = []
        for _ in range(count):
            query, is_right = make(draw.randrange(studies))
            # Browsers take gzip, so it is up to the peer and its settings whether a list is compressed.
            asks.append((peer.get(f"/studies?{query}", JSON, "gzip"), _check(is_right, query)))
        connection = peer.connect()
        took = latencies(connection, asks)
        connection.close()
        return took

    return run


def _alone(make: Callable[[int], Ask], studies: int, count: int) -> Callable[[Peer], Sample]:
    def run(peer: Peer) -> Sample:
        took = _searching(make, studies, count=count, seed=1)(peer)
        return Sample(values=(median(took),), requests=len(took))

    return run


def _by_name(text: Callable[[SmallStudy], str]) -> Callable[[int], Ask]:
    """Ask for the studies of one patient by name."""

    def make(number: int) -> Ask:
        study = SmallStudy(number=number)

        def is_right(rows: list[Any]) -> bool:
            names = {_value(row, "00100010")["Alphabetic"] for row in rows}
            return study.study_uid in {_value(row, "0020000D") for row in rows} and study.patient_name in names

        return text(study), is_right

    return make


def _exact_name(study: SmallStudy) -> str:
    return f"PatientName={study.patient_name}"


def _fuzzy_name(study: SmallStudy) -> str:
    family, given = study.patient_name.lower().split("^")
    return f"fuzzymatching=true&PatientName={given}%20{family}"


def _fuzzy(studies: int, count: int) -> Callable[[Peer], Sample]:
    """The same patients by their names as they are written, and by their words in another order and case."""

    def run(peer: Peer) -> Sample:
        exact = percentile(_searching(_by_name(_exact_name), studies, count=count, seed=4)(peer), 0.95)
        fuzzy = percentile(_searching(_by_name(_fuzzy_name), studies, count=count, seed=4)(peer), 0.95)
        return Sample(values=(exact, fuzzy, fuzzy / exact), requests=2 * count)

    return run


def _eight(make: Callable[[int], Ask], studies: int, count: int) -> Callable[[Peer], Sample]:
    def task(peer: Peer, seed: int) -> Callable[[Callable[[], object]], list[float]]:
        def work(go: Callable[[], object]) -> list[float]:
            search = _searching(make, studies, count=count, seed=seed)
            go()
            return search(peer)

        return work

    def run(peer: Peer) -> Sample:
        took = list(chain.from_iterable(crowd([task(peer, seed) for seed in range(8)])))
        return Sample(values=(median(took), percentile(took, 0.99)), requests=len(took))

    return run


def workloads(studies: int) -> tuple[Workload, ...]:
    """Give the searches for an index of so many studies (there are two more, of the images)."""
    key_goals, key_aims = (Goal(limit=0.7),), (Goal(limit=0.5),)

    def deep(_: int) -> Ask:
        return _page(studies - 100)

    def first(_: int) -> Ask:
        return _page(0)

    return (
        Workload(
            name="qido-uid",
            rows=(Row(title="QIDO by Study Instance UID", goals=key_goals, aims=key_aims),),
            run=_alone(by_uid, studies, 300),
        ),
        Workload(
            name="qido-accession",
            rows=(Row(title="QIDO by Accession Number", goals=key_goals, aims=key_aims),),
            run=_alone(by_accession, studies, 300),
        ),
        Workload(
            name="qido-uid-8",
            rows=(
                Row(title="QIDO by Study Instance UID, 8 clients, p50", aims=(Goal(limit=2),)),
                Row(title="QIDO by Study Instance UID, 8 clients, p99"),
            ),
            run=_eight(by_uid, studies, 100),
        ),
        Workload(
            name="qido-dates",
            rows=(Row(title="QIDO dates + modality, 25 rows", aims=(Goal(limit=2),)),),
            run=_alone(by_date_and_modality, studies, 100),
        ),
        Workload(
            name="qido-dates-8",
            rows=(
                Row(title="QIDO dates + modality, 25 rows, 8 clients, p50"),
                Row(title="QIDO dates + modality, 25 rows, 8 clients, p99", aims=(Goal(limit=20),)),
            ),
            run=_eight(by_date_and_modality, studies, 50),
        ),
        Workload(
            name="qido-page",
            rows=(Row(title="QIDO first page of 100, as OHIF asks", goals=(Goal(limit=3),), aims=(Goal(limit=2),)),),
            run=_alone(first, studies, 100),
        ),
        Workload(
            name="qido-deep",
            rows=(Row(title="QIDO last page of 100", goals=(Goal(limit=3),), aims=(Goal(limit=2),)),),
            run=_alone(deep, studies, 100),
        ),
        Workload(
            name="qido-fuzzy",
            rows=(
                Row(title="QIDO by Patient's Name, p95"),
                Row(title="QIDO by Patient's Name, fuzzy, p95"),
                Row(title="QIDO fuzzy, times exact, p95", unit="x", goals=(Goal(limit=3),)),
            ),
            run=_fuzzy(studies, 200),
            kinds=frozenset({"readingroom"}),
        ),
    )
