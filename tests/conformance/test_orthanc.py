"""The suite against Debian's Orthanc: it finds what is known to be wrong there, each with its explanation."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers import Missing, Orthanc
from conformance import orthanc
from conformance.dicomweb.checks import CHECKS
from conformance.dicomweb.plugin import OF_LEVEL, Outcome
from conformance.dicomweb.run import Options, run
from tests.conftest import absent


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    """What came of the whole suite against Orthanc in the set-up of the benchmarks."""
    server = Orthanc(Path(tmp_path_factory.mktemp("orthanc")))
    try:
        version = server.version()
        if version != orthanc.VERSION:
            absent(f"{orthanc.VERSION} ({version} is)")
        server.start()
    except Missing as error:
        absent(error)
    try:
        return run(Options(base=f"http://127.0.0.1:{server.port}{server.root}"), CHECKS.values()).outcomes
    finally:
        server.stop()


def test_every_fault_of_orthanc_is_explained(outcomes: list[Outcome]) -> None:
    explained = {check.id for cause in orthanc.CAUSES for check in cause.checks}
    unmet = {one.check.id: one.found for one in outcomes if one.state in OF_LEVEL.values()}
    assert {id: found for id, found in unmet.items() if id not in explained} == {}


def test_the_suite_finds_every_fault_that_is_known_of_orthanc(outcomes: list[Outcome]) -> None:
    unmet = {one.check.id for one in outcomes if one.state in OF_LEVEL.values()}
    assert {check.id for cause in orthanc.CAUSES for check in cause.checks} - unmet == set()


def test_most_of_what_is_demanded_is_met_by_orthanc(outcomes: list[Outcome]) -> None:
    assert sum(one.state == "pass" for one in outcomes) > 200


def test_each_fault_is_explained_once() -> None:
    found = [check.id for cause in orthanc.CAUSES for check in cause.checks]
    assert len(found) == len(set(found))
