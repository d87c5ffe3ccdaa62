"""The edge at a site: what is kept in its spool, and how it gets to the centre."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
from pydicom.uid import UID

from readingroom.clock import SetClock
from readingroom.errors import Conflict, NotDicom, OutOfSpace
from server.bandwidth import Bandwidth, Pace
from server.relaying import Batches, Centre, Relay
from server.room import Room
from server.settings import EdgeSettings
from server.spooling import Outbox, refused_in, state_of, try_again
from server.staging import Spool
from storage.directory import Opening
from tests.commands import Run
from tests.edge import LOOPBACK, is_empty, served, wait_until
from tests.stow import AS_STORED
from tests.synthetic import ct_series, part10


@contextmanager
def spool(folder: Path, clock: SetClock | None = None, **more: Any) -> Iterator[Outbox]:
    """A spool in a folder."""
    made = Outbox(folder, **{"clock": clock or SetClock(), "most_bytes": 1 << 30, **more})
    with closing(made):
        yield made


def put(outbox: Outbox, *objects: bytes, source: str = "CT1") -> None:
    for one in objects:
        outcome = outbox.keep(bytearray(one), facility="", source=source)
        assert outcome.error is None, outcome


def slices(count: int) -> list[bytes]:
    return [part10(one) for one in ct_series(count)]


def everything(outbox: Outbox) -> list[str]:
    """The SOP Instance UIDs, in the order in which they go."""
    return [one.instance_uid for one in outbox.take(most_instances=1000, most_bytes=1 << 30, seconds=0)]


# -- the folder --------------------------------------------------------------------------------------------------------


def test_what_was_kept_is_there_in_its_order_after_a_restart_and_what_had_not_come_whole_is_not(tmp_path: Path) -> None:
    clock = SetClock()
    sent = ct_series(3)
    with spool(tmp_path, clock) as outbox:
        for one in sent:
            put(outbox, part10(one))
            clock.advance(timedelta(seconds=1))
        half = outbox.open_spool()
        half.write(b"half")
        half.close()
    with spool(tmp_path, clock) as outbox:
        assert not list((tmp_path / "coming").iterdir())
        taken = outbox.take(most_instances=10, most_bytes=1 << 30, seconds=0)
        assert [one.path.read_bytes() for one in taken] == [part10(one) for one in sent]
        assert [one.instance_uid for one in taken] == [one.SOPInstanceUID for one in sent]


def test_one_folder_is_of_one_process(tmp_path: Path) -> None:
    with spool(tmp_path), pytest.raises(Conflict, match="Another process has the spool"):
        Outbox(tmp_path, clock=SetClock(), most_bytes=1)
    with spool(tmp_path) as outbox:
        assert not everything(outbox)


def test_what_is_to_go_first_does_and_never_together_with_other_things(tmp_path: Path) -> None:
    clock = SetClock()
    late, by_ae, by_modality = ct_series(1)[0], ct_series(1)[0], ct_series(1)[0]
    by_modality.Modality = "US"
    with spool(tmp_path, clock, first_aes=["STATCT"], first_modalities=["US"]) as outbox:
        for one, source in ((late, "CT1"), (by_ae, "STATCT"), (by_modality, "CT1")):
            put(outbox, part10(one), source=source)
            clock.advance(timedelta(seconds=1))
        assert everything(outbox) == [by_ae.SOPInstanceUID, by_modality.SOPInstanceUID]
        assert everything(outbox) == [late.SOPInstanceUID]


def test_a_batch_has_as_many_as_it_may_and_a_larger_object_goes_by_itself(tmp_path: Path) -> None:
    objects = slices(5)
    with spool(tmp_path) as outbox:
        put(outbox, *objects)
        most = len(objects[0]) * 2 + 10
        counts = [len(outbox.take(most_instances=3, most_bytes=size, seconds=0)) for size in (most, 1 << 30, 1, 1)]
        assert counts == [2, 3, 0, 0]
        put(outbox, objects[0])
        assert len(outbox.take(most_instances=3, most_bytes=1, seconds=0)) == 1


def test_a_spool_that_is_full_refuses_with_out_of_space_and_keeps_what_it_has(tmp_path: Path) -> None:
    one, other = slices(2)
    with spool(tmp_path, most_bytes=len(one) + 10) as outbox:
        put(outbox, one)
        outcome = outbox.keep(bytearray(other), facility="", source="CT1")
        assert isinstance(outcome.error, OutOfSpace)
        (held,) = outbox.take(most_instances=9, most_bytes=1 << 30, seconds=0)
        outbox.done(held)
        put(outbox, other)
    with spool(tmp_path, least_free_bytes=1 << 60) as outbox, pytest.raises(OutOfSpace, match="disk of the spool"):
        outbox.open_spool()


def test_a_disk_that_is_full_refuses_and_nothing_is_left_of_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one,) = slices(1)

    def full(_spool: Spool, _trailer: bytes) -> None:
        raise OSError(28, os.strerror(28))

    with spool(tmp_path) as outbox:
        with monkeypatch.context() as patch:
            patch.setattr(Spool, "finish", full)
            outcome = outbox.keep(bytearray(one), facility="", source="CT1")
        assert isinstance(outcome.error, OutOfSpace)
        assert not [*(tmp_path / "coming").iterdir(), *(tmp_path / "waiting").iterdir()]


@pytest.mark.parametrize("uid", ["../../../etc/x", None])
def test_what_is_no_object_or_has_no_uid_is_refused_and_nothing_is_left_of_it(tmp_path: Path, uid: str | None) -> None:
    (one,) = ct_series(1)
    if uid is not None:
        one.SOPInstanceUID = one.file_meta.MediaStorageSOPInstanceUID = UID(uid, validation_mode=0)
    with spool(tmp_path) as outbox:
        outcome = outbox.keep(bytearray(b"nothing" if uid is None else part10(one)), facility="", source="CT1")
        assert isinstance(outcome.error, NotDicom)
        assert not [*(tmp_path / "coming").iterdir(), *(tmp_path / "waiting").iterdir()]


# -- to a centre that answers as it wants ------------------------------------------------------------------------------


def answer_of(stored: Sequence[str] = (), failed: Sequence[tuple[str, int]] = ()) -> dict[str, Any]:
    """A Store Instances Response."""
    told: dict[str, Any] = {}
    if stored:
        told["00081199"] = {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}} for uid in stored]}
    if failed:
        told["00081198"] = {
            "vr": "SQ",
            "Value": [
                {"00081155": {"vr": "UI", "Value": [uid]}, "00081197": {"vr": "US", "Value": [reason]}}
                for uid, reason in failed
            ],
        }
    return told


type Script = Callable[[list[str]], tuple[int, Any]]
"""Given the SOP Instance UIDs of a request, its status and its answer."""


@dataclass
class Mock:
    """A centre in this process: each request is answered as the next of `script` says, then all is stored."""

    script: list[Script] = field(default_factory=list)
    requests: list[list[str]] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    bodies: dict[str, bytes] = field(default_factory=dict)
    url: str = ""
    found: Callable[[list[str]], list[str]] = list


@pytest.fixture
def mock() -> Iterator[Mock]:
    made = Mock()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            mark = b"--" + self.headers["Content-Type"].rpartition("boundary=")[2].encode()
            objects = [part.partition(b"\r\n\r\n")[2][:-2] for part in body.split(mark)[1:-1]]
            uids = [uid_of(one) for one in objects]
            with lock:
                made.requests.append(uids)
                made.tokens.append(self.headers["Authorization"])
                made.bodies |= dict(zip(uids, objects, strict=True))
                script = made.script.pop(0) if made.script else stored
            self.reply(*script(uids))

        def do_GET(self) -> None:
            asked = httpx.QueryParams(self.path.partition("?")[2])["SOPInstanceUID"].split(",")
            self.reply(200, [{"00080018": {"vr": "UI", "Value": [uid]}} for uid in made.found(asked)])

        def reply(self, status: int, told: Any) -> None:
            data = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        made.url = f"http://127.0.0.1:{server.server_port}/dicomweb"
        yield made
        server.shutdown()
        thread.join()


def uid_of(sent: bytes) -> str:
    from io import BytesIO

    from pydicom import dcmread

    return str(dcmread(BytesIO(sent), stop_before_pixels=True).SOPInstanceUID)


def stored(uids: list[str]) -> tuple[int, Any]:
    return 200, answer_of(uids)


@contextmanager
def relaying(outbox: Outbox, centre: Mock | str, *, connections: int = 1, **more: Any) -> Iterator[Relay]:
    """What carries to that centre, without long pauses."""
    url = centre if isinstance(centre, str) else centre.url
    known = {name: more.pop(name) for name in ("authorize", "confirms") if name in more}
    relay = Relay(
        outbox,
        Centre(url=url, networks=LOOPBACK, **known),
        clock=SetClock(),
        batches=Batches(connections=connections, instances=10, size_bytes=1 << 20),
        shortest=0.01,
        longest=0.05,
        look=0.05,
        **more,
    )
    relay.start()
    try:
        yield relay
    finally:
        relay.stop()


def test_what_waits_arrives_byte_for_byte_with_the_token_and_leaves_the_spool(tmp_path: Path, mock: Mock) -> None:
    objects = slices(5)
    with spool(tmp_path) as outbox:
        put(outbox, *objects)
        with relaying(outbox, mock, authorize=lambda: "Bearer t"):
            wait_until(lambda: is_empty(tmp_path))
    assert sorted(mock.bodies.values()) == sorted(objects)
    assert mock.tokens == ["Bearer t"]
    assert state_of(tmp_path)["sent"] == 5


@pytest.mark.parametrize(
    "script",
    [
        lambda uids: (503, b""),
        lambda uids: (500, b"an error"),
        lambda uids: (401, b""),
        lambda uids: (404, b""),
        lambda uids: (302, b""),
        lambda uids: (200, b"<html>Please log in to this hotel's network</html>"),
        lambda uids: (200, {}),
        lambda uids: (200, [1]),
        lambda uids: (202, answer_of(uids[:1], [(uid, 0xA700) for uid in uids[1:]])),
        lambda uids: (409, answer_of(failed=[(uid, 0x0110) for uid in uids])),
        lambda uids: (200, answer_of(uids[1:])),
        lambda uids: (400, b"not this"),
        lambda uids: (413, b"too large"),
    ],
    ids=[
        *("busy", "error", "no token", "wrong path", "redirect", "a portal", "nothing told", "no object"),
        *("no space", "failed", "one is not named", "not read", "too large"),
    ],
)
def test_what_the_centre_does_not_say_that_it_has_is_sent_again(tmp_path: Path, mock: Mock, script: Script) -> None:
    mock.script = [script]
    objects = slices(3)
    with spool(tmp_path) as outbox:
        put(outbox, *objects)
        with relaying(outbox, mock):
            wait_until(lambda: is_empty(tmp_path))
    assert len(mock.requests) > 1
    assert sorted(mock.bodies.values()) == sorted(objects)
    assert not refused_in(tmp_path)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ([lambda uids: (202, answer_of(uids[1:], [(uids[0], 0xC000)]))], "refuses it with C000"),
        ([lambda uids: (409, answer_of(failed=[(uids[0], 0x0111)]))] * 3, "refuses it with 0111"),
        ([lambda uids: (400, b"")] * 9, "has answered 400"),
        ([lambda uids: (200, answer_of(["1.2.3"]))] * 9, "does not say what became of it"),
    ],
)
def test_what_the_centre_does_not_take_is_put_aside_with_the_reason_and_goes_again_when_it_is_told_to(
    tmp_path: Path, mock: Mock, script: list[Script], says: str
) -> None:
    (one,) = slices(1)
    mock.script = list(script)
    with spool(tmp_path) as outbox:
        put(outbox, one)
        with relaying(outbox, mock):
            wait_until(lambda: refused_in(tmp_path))
            wait_until(lambda: is_empty(tmp_path))
            (refused,) = refused_in(tmp_path)
            assert says in refused.reason
            mock.script = []
            assert try_again(tmp_path, [refused.name]) == 1
            wait_until(lambda: not list((tmp_path / "again").iterdir()) and is_empty(tmp_path))
    assert mock.requests[-1] == [uid_of(one)]
    assert not refused_in(tmp_path)


def test_one_that_spoils_a_request_is_put_aside_and_the_others_arrive(tmp_path: Path, mock: Mock) -> None:
    objects = ct_series(4)
    bad = str(objects[2].SOPInstanceUID)

    def spoiled(uids: list[str]) -> tuple[int, Any]:
        return (400, b"") if bad in uids else stored(uids)

    mock.script = [spoiled] * 40
    with spool(tmp_path) as outbox:
        put(outbox, *map(part10, objects))
        with relaying(outbox, mock):
            wait_until(lambda: is_empty(tmp_path))
    assert [bad in one.name for one in refused_in(tmp_path)] == [True]
    assert {uid for uids in mock.requests for uid in uids} == {str(one.SOPInstanceUID) for one in objects}


def test_with_confirm_what_the_centre_does_not_find_is_sent_again(tmp_path: Path, mock: Mock) -> None:
    mock.found = lambda asked: asked[: len(mock.requests) - 1]
    with spool(tmp_path) as outbox:
        put(outbox, *slices(2))
        with relaying(outbox, mock, confirms=True):
            wait_until(lambda: is_empty(tmp_path))
    assert len(mock.requests) == 3  # none of two was found, then one, then the other


def test_while_the_hours_are_closed_only_what_goes_first_goes(tmp_path: Path, mock: Mock) -> None:
    all_day = Opening.model_validate({"days": "mon-sun", "starts": "00:00", "ends": "00:00"})
    with spool(tmp_path, first_aes=["STATCT"]) as outbox:
        usual, urgent = slices(2)
        put(outbox, usual)
        put(outbox, urgent, source="STATCT")
        with relaying(outbox, mock, bandwidth=Bandwidth(usual=None, hours=[(all_day, 0.0)])):
            wait_until(lambda: mock.requests)
    assert mock.requests == [[uid_of(urgent)]]
    assert not is_empty(tmp_path)


def test_a_file_that_the_disk_does_not_give_back_holds_up_no_other(tmp_path: Path, mock: Mock) -> None:
    objects = slices(3)
    with spool(tmp_path) as outbox:
        put(outbox, *objects)
        lost = min((tmp_path / "waiting").iterdir())
        os.truncate(lost, 10)
        with relaying(outbox, mock):
            wait_until(lambda: is_empty(tmp_path))
    assert ["does not give it back" in one.reason for one in refused_in(tmp_path)] == [True]
    assert len(mock.bodies) == 2


# -- bandwidth ---------------------------------------------------------------------------------------------------------


def test_the_fewest_of_the_hours_that_hold_is_the_rate_also_after_midnight_and_in_the_zone() -> None:
    day = Opening.model_validate({"days": "mon-fri", "starts": "08:00", "ends": "18:00"})
    night = Opening.model_validate({"days": "fri", "starts": "22:00", "ends": "06:00"})
    found = Bandwidth(usual=None, hours=[(day, 500.0), (day, 300.0), (night, 0.0)], zone=ZoneInfo("America/Chicago"))
    rates = {
        (2026, 1, 9, 15): 300.0,  # Friday, 9:00 in Chicago
        (2026, 1, 9, 13): None,  # 7:00
        (2026, 1, 10, 0): None,  # 18:00
        (2026, 1, 10, 11): 0.0,  # Saturday, 5:00
        (2026, 1, 10, 12): None,
    }
    assert {at: found.at(datetime(*at, tzinfo=UTC)) for at in rates} == rates


def test_all_who_send_by_one_pace_keep_to_the_rate_together() -> None:
    now = [100.0]
    pace = Pace(lambda: now[0])
    assert [pace.delay(1000, 500.0) for _ in range(3)] == [0.0, 2.0, 4.0]
    now[0] += 10
    assert pace.delay(1000, 500.0) == 0.0
    assert pace.delay(1000, None) == 0.0


# -- to a centre of our own --------------------------------------------------------------------------------------------


def test_a_study_arrives_at_our_own_centre_and_is_confirmed_there(tmp_path: Path, room: Room) -> None:
    study = ct_series(12)
    with spool(tmp_path / "edge") as outbox, served(room) as url:
        put(outbox, *map(part10, study))
        with relaying(outbox, url, connections=2, confirms=True):
            wait_until(lambda: is_empty(tmp_path / "edge"))
        assert not refused_in(tmp_path / "edge")
        for one in study[::4]:
            path = f"/studies/{one.StudyInstanceUID}/series/{one.SeriesInstanceUID}/instances/{one.SOPInstanceUID}"
            answer = httpx.get(url + path, headers=AS_STORED)
            assert part10(one) in answer.content
        found = httpx.get(f"{url}/studies/{study[0].StudyInstanceUID}/instances").json()
    assert len(found) == 12


# -- commands and settings ---------------------------------------------------------------------------------------------


def test_status_says_what_waits_and_what_is_refused_and_retry_sends_it_again(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READINGROOM_EDGE__FOLDER", str(tmp_path))
    with spool(tmp_path) as outbox:
        put(outbox, *slices(2))
        (held,) = outbox.take(most_instances=1, most_bytes=1 << 30, seconds=0)
        outbox.refuse(held, "The centre refuses it with C000.")
        told = json.loads(run("edge", "status", "--json", status=1).out)
    assert told["is_running"]
    assert told["waiting"]["objects"] == 1
    assert [one["name"] for one in told["refused"]] == [held.name]
    said = run("edge", "status", status=1).out
    assert "not running" in said
    assert "refuses it with C000" in said
    assert "1 objects go again" in run("edge", "retry", held.name).out
    with spool(tmp_path) as outbox:
        assert outbox.take_up() == 1
        assert held.instance_uid in everything(outbox)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"centre": "ftp://centre"}, "a URL begins with https://"),
        ({"token_url": "https://centre/token"}, "come together"),
        ({"zone": "Mars/Olympus"}, "no time zone"),
        ({"hours": [{"starts": "8 am", "ends": "18:00", "kilobytes_per_second": 0}]}, "write a time of day"),
        ({"hours": [{"starts": "08:00", "ends": "18:00", "kilobytes_per_second": 1}]}, "less than 8 kB"),
        ({"key": "x.pem"}, "key needs certificate"),
    ],
)
def test_settings_of_an_edge_that_cannot_be_are_told(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        EdgeSettings(**given)
