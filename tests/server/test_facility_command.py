"""A facility is added with all that it needs, and everything is tried, from the command line and against real peers."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import httpx
import pytest

from server.associations.requesting import VERIFICATION
from server.onboarding import Trial, Tried
from server.room import Room
from server.settings import DimsePeer, DimseSettings, Hl7Settings
from storage.directory import FacilityEntry
from tests.commands import Run, runner
from tests.dimse import LOOPBACK, receiving, serving
from tests.directory import facility
from tests.hl7 import listening
from tests.receiver import answering, receiver

NEW = ("--name", "Mercy Hospital", "--kind", "hospital", "--state", "US-TX", "--zone", "America/Chicago")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    return runner(capsys, monkeypatch)


def shown(run: Run, data: Path, id: str = "mercy") -> dict[str, object]:
    (entry,) = tomllib.loads(run("facility", "show", id, "--data", data).out)["facilities"]
    assert isinstance(entry, dict)
    return entry


def test_a_facility_is_added_with_its_peers_senders_destinations_and_contract(run: Run, tmp_path: Path) -> None:
    contract = tmp_path / "contract.toml"
    contract.write_text('[[contracts]]\nfrom = 2026-01-01\nclasses = [{ study_type = "any", due = "24h" }]\n')
    peers = ("--ae", "MERCY_CT", "--ae", "MERCY_PACS@10.1.0.4:11112")
    others = ("--sender", "EPIC|MERCY", "--destination", "ris=mllp://10.1.0.9:6661", "--contract", contract)
    told = run("facility", "add", "mercy", *NEW, *peers, *others, "--data", tmp_path / "data")
    assert "mercy is there." in told.words
    entry = shown(run, tmp_path / "data")
    assert entry["aes"] == [{"ae": "MERCY_CT"}, {"ae": "MERCY_PACS", "host": "10.1.0.4", "port": 11112}]
    assert entry["senders"] == [{"application": "EPIC", "facility": "MERCY"}]
    assert entry["destinations"] == [{"id": "ris", "channel": "hl7", "address": "mllp://10.1.0.9:6661"}]
    assert len(entry["contracts"]) == 1  # type: ignore[arg-type]
    (row,) = json.loads(run("facility", "list", "--json", "--data", tmp_path / "data").out)
    assert (row["id"], row["aes"], row["senders"]) == ("mercy", ["MERCY_CT", "MERCY_PACS"], ["EPIC|MERCY"])


def test_what_is_added_again_is_replaced_and_the_rest_stays(run: Run, tmp_path: Path) -> None:
    run("facility", "add", "mercy", *NEW, "--ae", "CT@10.1.0.4", "--ae", "MR", "--data", tmp_path)
    again = ("facility", "add", "mercy", "--ae", "CT@10.1.0.5", "--data", tmp_path)
    assert "was changed" in run(*again).words
    assert "is as it was" in run(*again).words
    entry = shown(run, tmp_path)
    assert entry["aes"] == [{"ae": "MR"}, {"ae": "CT", "host": "10.1.0.5"}]
    assert entry["name"] == "Mercy Hospital"


def test_a_dry_run_prints_the_entry_and_changes_nothing(run: Run, tmp_path: Path) -> None:
    told = run("facility", "add", "mercy", *NEW, "--dry-run", "--data", tmp_path)
    assert 'name = "Mercy Hospital"' in told.out
    assert "There is no facility mercy" in run("facility", "show", "mercy", "--data", tmp_path, status=1).err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "a new one needs --name, --kind, --state, --zone"),
        ((*NEW, "--ae", "A@B@C"), "AE@HOST:PORT"),
        ((*NEW, "--ae", "CT@10.1.0.4:99999"), "aes.0.port"),
        ((*NEW, "--destination", "ris"), "NAME=ADDRESS"),
        ((*NEW, "--destination", "ris=ftp://x"), "begins with mllp:"),
        ((*NEW, "--contract", "nothing.toml"), "cannot be read"),
    ],
)
def test_what_is_wrong_is_told_with_what_would_be_right(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    assert says in " ".join(run("facility", "add", "mercy", *arguments, "--data", tmp_path, status=1).err.split())


def test_two_facilities_cannot_have_the_same_ae_title(run: Run, tmp_path: Path) -> None:
    run("facility", "add", "mercy", *NEW, "--ae", "CT", "--data", tmp_path)
    refused = run("facility", "add", "north", *NEW, "--ae", "CT", "--data", tmp_path, status=1)
    assert "AE title 'CT'" in refused.err


# -- trying --------------------------------------------------------------------------------------------------------


def tried(room: Room, entry: FacilityEntry, *, dimse: int | None, hl7: int | None) -> dict[str, Tried]:
    settings = room.settings.model_copy(
        update={
            "dimse": DimseSettings(port=dimse),
            "hl7": Hl7Settings(port=hl7),
            "private_networks": LOOPBACK,
        }
    )
    trial = Trial(settings=settings, engine=room.engine, blobs=room.blobs, clock=room.clock, sends_report=True)
    return {f"{one.what} {one.who}": one for one in trial.run(entry)}


def test_everything_that_answers_is_ready_and_nothing_is_left(room: Room, client: httpx.Client) -> None:
    with receiving(classes=(VERIFICATION,)) as pacs, receiver() as ris, listening(room) as hl7:
        entry = facility(
            "local",
            aes=[{"ae": "CT1"}, {"ae": "STORE", "host": "127.0.0.1", "port": pacs.port}],
            senders=[{"application": "RIS"}],
            destinations=[{"id": "ris", "channel": "hl7", "address": ris.address}],
        )
        peers = [DimsePeer(ae="CT1"), DimsePeer(ae="STORE")]
        with serving(room, *peers) as dimse:
            found = tried(room, entry, dimse=dimse.port, hl7=hl7.port)
    assert {one.state for one in found.values()} == {"ok", "skipped"}, found
    assert [name for name, one in found.items() if one.state == "skipped"] == ["contract local"]
    assert found["C-FIND as CT1"].text == "What was stored is found."
    assert found["worklist as STORE"].text == "0 scheduled for it."
    (report,) = ris.messages
    assert report.split("|")[10] == "T"
    assert client.get("/dicomweb/studies").status_code == 204
    room.queue.drain()
    assert client.get("/worklist").json() == []


def test_what_does_not_answer_is_told(room: Room) -> None:
    with receiver() as ris, serving(room, DimsePeer(ae="CT1", may_store=False, may_find=False)) as dimse:
        ris.usual = answering("AR", "unknown facility")
        entry = facility(
            "local",
            aes=[{"ae": "CT1"}, {"ae": "NOBODY", "host": "127.0.0.1", "port": 9}],
            senders=[{"application": "RIS", "profile": "none"}],
            destinations=[{"id": "ris", "channel": "hl7", "address": ris.address}],
        )
        found = tried(room, entry, dimse=dimse.port, hl7=None)
    failed = {name: one.text for name, one in found.items() if one.state == "failed"}
    assert set(failed) == {
        "C-ECHO to NOBODY",
        "C-STORE as CT1",
        "C-FIND as CT1",
        "worklist as CT1",
        "association as NOBODY",
        "HL7 profile of RIS",
        "test report to ris (hl7)",
    }
    assert "0124" in failed["C-STORE as CT1"]
    assert "AR: unknown facility" in failed["test report to ris (hl7)"]
    assert found["HL7 as RIS"].state == "skipped"


def test_a_check_ends_with_a_verdict(run: Run, tmp_path: Path) -> None:
    run("facility", "add", "mercy", *NEW, "--ae", "CT", "--data", tmp_path)
    assert "mercy is ready." in run("facility", "check", "mercy", "--data", tmp_path).words
    run("facility", "add", "mercy", "--ae", "PACS@127.0.0.1:9", "--data", tmp_path)
    told = json.loads(run("facility", "check", "mercy", "--json", "--data", tmp_path, status=1).out)
    assert (told["is_ready"], [one["who"] for one in told["tried"] if one["state"] == "failed"]) == (False, ["PACS"])
