"""The suite against this server: what it demands is met here, and it says so in every form."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest

from conformance.dicomweb import report
from conformance.dicomweb.checks import AREAS, CHECKS, Level
from conformance.dicomweb.peer import Peer
from conformance.dicomweb.plugin import Outcome, State, chosen
from conformance.dicomweb.run import CannotRun, Options, Results, run
from tests.conftest import absent
from tests.servers import REPOSITORY, Live, free_port


@pytest.fixture(scope="module")
def results(live: Live) -> Results:
    """What came of the whole suite against this server."""
    return run(Options(base=live.dicomweb), CHECKS.values())


def test_this_server_meets_every_demand(results: Results) -> None:
    unmet = [one for one in results.outcomes if one.state in (State.FAIL, State.WARN, State.INFO)]
    told = [f"{one.check.id} {one.check.title}: {one.found}" for one in unmet]
    assert told == []


def test_no_check_is_skipped_that_could_be_run(results: Results) -> None:
    skipped = [one for one in results.outcomes if one.state is State.SKIP]
    assert [f"{one.check.id}: {one.found}" for one in skipped] == []


def test_nothing_that_the_suite_stored_is_left(results: Results) -> None:
    assert results.left == []


def test_every_work_item_of_the_suite_has_ended(live: Live, results: Results) -> None:
    with httpx.Client(base_url=live.dicomweb) as client:
        mine = {"PatientName": "Conformance^Suite", "PatientID": "CS*-W"}
        assert client.get("/workitems", params={**mine, "limit": "1"}).status_code == 206
        for state in ("SCHEDULED", "IN PROGRESS"):
            assert client.get("/workitems", params={**mine, "ProcedureStepState": state}).status_code == 204


def test_every_check_has_an_outcome(results: Results) -> None:
    assert [one.check.id for one in results.outcomes] != []
    assert sorted(one.check.id for one in results.outcomes) == sorted(CHECKS)


def test_there_are_checks_of_every_area_and_level() -> None:
    assert len(CHECKS) >= 200
    assert {check.area for check in CHECKS.values()} == set(AREAS.values())
    assert {check.level for check in CHECKS.values()} == set(Level)


def test_a_demand_is_a_sentence_of_its_own() -> None:
    titles = [check.title for check in CHECKS.values()]
    assert len(set(titles)) == len(titles)
    assert [title for title in titles if len(title) > 200] == []


@pytest.fixture
def some(live: Live, results: Results) -> Results:
    """An outcome of each of three states, the unmet one with its exchange."""
    with httpx.Client() as client:
        answer = Peer(client, live.dicomweb).search("/studies", limit="none")
    few = results.outcomes[:3]
    made = [
        Outcome(check=few[0].check, state=State.PASS),
        Outcome(check=few[1].check, state=State.FAIL, found="no <good>\x00", answer=answer),
        Outcome(check=few[2].check, state=State.SKIP, found="nothing there"),
    ]
    return Results(base=results.base, server="a & b", outcomes=made)


def test_the_json_report_has_each_check_with_its_section_and_the_curl_line(some: Results) -> None:
    whole = json.loads(report.to_json(some))
    assert whole["counts"] == {"pass": 1, "fail": 1, "warn": 0, "info": 0, "skip": 1}
    failed = whole["checks"][1]
    assert failed["state"] == "fail"
    assert failed["found"].startswith("no <good>")
    assert failed["section"] == CHECKS[failed["id"]].reference
    assert failed["curl"].startswith("curl -i ")


def test_the_junit_report_is_read_by_an_xml_parser(some: Results) -> None:
    root = ElementTree.fromstring(report.to_junit(some))
    assert (root.get("tests"), root.get("failures")) == ("3", "1")
    assert [case.tag for case in root.iter("failure")] == ["failure"]
    assert len(list(root.iter("skipped"))) == 1


def test_the_html_report_escapes_what_a_server_said(some: Results) -> None:
    page = report.to_html(some)
    assert "no &lt;good&gt;" in page
    assert "a &amp; b" in page


def test_the_exit_status_tells_what_failed(some: Results) -> None:
    assert report.exit_status(some) == 1
    assert report.exit_status(Results(base="", server="", outcomes=some.outcomes[:1])) == 0


def test_the_curl_line_asks_the_same_again(live: Live, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        absent("the program curl")
    with httpx.Client(headers={"Authorization": "Basic secret"}) as client:
        peer = Peer(client, live.dicomweb)
        answers = [
            peer.get("/studies", "limit=ten&PatientID=a%20b*", accept="application/dicom+json"),
            peer.get("/studies", accept=None),
            peer.ask("DELETE", "/nowhere"),
            peer.post("/studies", "text/plain", b"what is sent"),
        ]
    (tmp_path / "BODY").write_bytes(b"what is sent")
    for answer in answers:
        assert "secret" not in answer.curl()
        done = subprocess.run(shlex.split(answer.curl()), capture_output=True, text=True, cwd=tmp_path, timeout=60)
        head, _, body = done.stdout.partition("\n\n")
        assert f" {answer.status} " in head.splitlines()[0]
        assert body == answer.body.decode()


def test_a_server_that_is_not_there_cannot_be_checked() -> None:
    with pytest.raises(CannotRun, match="No server answers"):
        run(Options(base=f"http://127.0.0.1:{free_port()}"), CHECKS.values())
    with pytest.raises(CannotRun, match="is no http"):
        run(Options(base="ftp://127.0.0.1"), CHECKS.values())


def test_an_unknown_check_or_area_is_named() -> None:
    with pytest.raises(ValueError, match="no check QIDO-9"):
        chosen(only=["QIDO-9"])
    with pytest.raises(ValueError, match="no area seach"):
        chosen(in_areas=["seach"])
    assert {check.area for check in chosen(in_areas=["frames"])} == {"frames"}


def test_the_samples_of_a_folder_are_found_again_without_storing(live: Live, tmp_path: Path) -> None:
    only = chosen(only=["WADO-001"])
    kept = Options(base=live.dicomweb, data=tmp_path / "samples", keeps=True)
    assert [one.state for one in run(kept, only).outcomes] == [State.PASS]
    again = Options(base=live.dicomweb, data=tmp_path / "samples", can_store=False)
    assert [one.state for one in run(again, only).outcomes] == [State.PASS]
    fresh = run(Options(base=live.dicomweb, can_store=False), only)
    assert [one.state for one in fresh.outcomes] == [State.SKIP]
    assert len(list((tmp_path / "samples").glob("*.dcm"))) == 28


def test_the_command_writes_a_report_and_answers_with_its_status(live: Live, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "server.cli", "conformance", "dicomweb", "--base", live.dicomweb]
    command += ["--only", "HTTP", "--report", "json", "--out", str(tmp_path / "report.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "http" in done.stdout
    assert json.loads((tmp_path / "report.json").read_text())["counts"]["fail"] == 0


def test_the_command_ends_with_2_where_it_cannot_run() -> None:
    command = [sys.executable, "-m", "server.cli", "conformance", "dicomweb", "--header", "no colon"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=100)
    assert done.returncode == 2
    assert "is not written as" in done.stderr
