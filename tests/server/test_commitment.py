"""Storage commitment over HTTP (PS3.18 chapter 13): what is promised, what is not and why."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydicom import Dataset

from readingroom.clock import SetClock
from server.committing import PATIENCE
from server.room import Room
from storage.nativexml import from_xml, to_xml
from tests.nonpatient import MADE
from tests.retrieve import keep
from tests.stow import store
from tests.synthetic import ct_series, new_uid, part10
from tests.worklist import attribute

BOTH = pytest.mark.rooms("sqlite", "postgres")
JSON = "application/dicom+json"
REQUESTS = "/dicomweb/commitment-requests"


def reference(dataset: Dataset, **changes: str) -> dict[str, Any]:
    uids = {"00081150": dataset.SOPClassUID, "00081155": dataset.SOPInstanceUID, **changes}
    return {tag: attribute("UI", str(uid)) for tag, uid in uids.items()}


def asking(*references: dict[str, Any]) -> dict[str, Any]:
    return {"00081199": attribute("SQ", *references)}


def ask(client: httpx.Client, uid: str, dataset: dict[str, Any], **headers: str) -> httpx.Response:
    return client.post(f"{REQUESTS}/{uid}", json=dataset, headers={"Content-Type": JSON, **headers})


def uids(items: dict[str, Any] | None) -> list[str]:
    return [one["00081155"]["Value"][0] for one in (items or {}).get("Value", [])]


def reasons(result: dict[str, Any]) -> list[int]:
    return [one["00081197"]["Value"][0] for one in result["00081198"]["Value"]]


@BOTH
def test_what_is_kept_is_committed_and_what_is_not_has_a_reason(client: httpx.Client, clock: SetClock) -> None:
    slices, uid, absent = ct_series(3), new_uid(), new_uid()
    keep(client, *slices)
    wrong = reference(slices[2], **{"00081150": "1.2.840.10008.5.1.4.1.1.4"})
    asked = asking(reference(slices[0]), reference(slices[1]), wrong, reference(slices[0], **{"00081155": absent}))
    answer = ask(client, uid, asked)
    assert (answer.status_code, answer.content) == (202, b"")
    assert int(answer.headers["retry-after"]) > 0
    assert client.get(f"{REQUESTS}/{uid}").status_code == 202
    clock.advance(PATIENCE)
    result = client.get(f"{REQUESTS}/{uid}")
    assert (result.status_code, result.headers["content-type"]) == (200, JSON)
    told = result.json()
    assert uids(told["00081199"]) == [slices[0].SOPInstanceUID, slices[1].SOPInstanceUID]
    assert uids(told["00081198"]) == [slices[2].SOPInstanceUID, absent]
    assert reasons(told) == [0x0119, 0x0112]
    assert ask(client, uid, asked).json() == told


def test_what_comes_within_a_minute_is_committed(client: httpx.Client, clock: SetClock) -> None:
    (slice_,) = ct_series(1)
    uid = new_uid()
    assert ask(client, uid, asking(reference(slice_))).status_code == 202
    keep(client, slice_)
    clock.advance(timedelta(seconds=5))
    told = client.get(f"{REQUESTS}/{uid}").json()
    assert (uids(told["00081199"]), "00081198" in told) == ([slice_.SOPInstanceUID], False)


def test_xml_is_read_and_answered(client: httpx.Client) -> None:
    (slice_,) = ct_series(1)
    keep(client, slice_)
    xml = {"Content-Type": "application/dicom+xml", "Accept": "application/dicom+xml"}
    answer = client.post(f"{REQUESTS}/{new_uid()}", content=to_xml(asking(reference(slice_))), headers=xml)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/dicom+xml")
    assert uids(from_xml(answer.content)["00081199"]) == [slice_.SOPInstanceUID]


def test_instances_are_named_by_study_and_series_and_answered_so(client: httpx.Client, clock: SetClock) -> None:
    slices = ct_series(2)
    keep(client, *slices)

    def of_study(study: str) -> dict[str, Any]:
        instances = [{"00081155": attribute("UI", one.SOPInstanceUID)} for one in slices]
        of_class = {"00081150": attribute("UI", slices[0].SOPClassUID), "0008114A": attribute("SQ", *instances)}
        series = {"0020000E": attribute("UI", slices[0].SeriesInstanceUID), "00081112": attribute("SQ", of_class)}
        return {"0020000D": attribute("UI", study), "00081115": attribute("SQ", series)}

    other, uid = new_uid(), new_uid()
    ask(client, uid, {"00081110": attribute("SQ", of_study(slices[0].StudyInstanceUID), of_study(other))})
    clock.advance(PATIENCE)
    told = client.get(f"{REQUESTS}/{uid}").json()
    assert told["00081110"] == attribute("SQ", of_study(slices[0].StudyInstanceUID))
    (failed,) = told["0008119B"]["Value"]
    assert failed["0020000D"] == attribute("UI", other)
    (of_class,) = failed["00081115"]["Value"][0]["00081112"]["Value"]
    assert [one["00081197"]["Value"] for one in of_class["0008114A"]["Value"]] == [[0x0112]] * 2


def test_a_transaction_uid_is_good_for_one_request(client: httpx.Client) -> None:
    first, second = ct_series(2)
    keep(client, first, second)
    uid = new_uid()
    told = ask(client, uid, asking(reference(first)))
    assert ask(client, uid, asking(reference(first))).json() == told.json()
    assert ask(client, uid, asking(reference(second))).status_code == 409
    assert client.get(f"{REQUESTS}/{uid}").json() == told.json()


def test_an_object_whose_bytes_are_not_those_that_came_is_not_committed(client: httpx.Client, room: Room) -> None:
    cut, gone, whole = ct_series(3)
    keep(client, cut, gone, whole)
    objects = {}
    for path in Path(room.settings.data).rglob("c.*"):
        for one in (cut, gone, whole):
            if one.SOPInstanceUID.encode() in path.read_bytes():
                objects[one.SOPInstanceUID] = path
    objects[cut.SOPInstanceUID].write_bytes(objects[cut.SOPInstanceUID].read_bytes()[:-1])
    objects[gone.SOPInstanceUID].unlink()
    told = ask(client, new_uid(), asking(*map(reference, (cut, gone, whole)))).json()
    assert uids(told["00081199"]) == [whole.SOPInstanceUID]
    assert reasons(told) == [0x0110, 0x0110]


def test_what_belongs_to_no_patient_is_committed_too(client: httpx.Client) -> None:
    category, make = next(iter(MADE.items()))
    made = make()
    assert store(client, part10(made), to=f"/dicomweb/{category}").status == 200
    assert uids(ask(client, new_uid(), asking(reference(made))).json()["00081199"]) == [made.SOPInstanceUID]


def test_what_is_of_another_facility_or_deleted_is_not_committed(client: httpx.Client, clock: SetClock) -> None:
    here, deleted = ct_series(1)[0], ct_series(1)[0]
    keep(client, here, deleted)
    assert client.delete(f"/dicomweb/studies/{deleted.StudyInstanceUID}").status_code in (200, 204)
    uid = new_uid()
    ask(client, uid, asking(reference(deleted)))
    north = f"/dicomweb/f/north/commitment-requests/{uid}"
    assert client.post(north, json=asking(reference(here)), headers={"Content-Type": JSON}).status_code == 202
    clock.advance(PATIENCE)
    assert reasons(client.get(f"{REQUESTS}/{uid}").json()) == [0x0112]
    assert reasons(client.get(north).json()) == [0x0112]


def test_what_is_no_request_is_refused(client: httpx.Client) -> None:
    (slice_,) = ct_series(1)
    good = asking(reference(slice_))
    assert ask(client, "1.2$", good).status_code == 400
    for bad in ({}, asking(), asking({"00081155": attribute("UI", "1.2.3")}), {"00081110": attribute("SQ", {})}):
        assert ask(client, new_uid(), bad).status_code == 400
    assert ask(client, new_uid(), good, Accept="image/png").status_code == 406
    assert (
        client.post(f"{REQUESTS}/{new_uid()}", content=b"x", headers={"Content-Type": "text/plain"}).status_code == 415
    )
    assert client.post(f"{REQUESTS}/{new_uid()}", content=b"{", headers={"Content-Type": JSON}).status_code == 400
    assert client.get(f"{REQUESTS}/{new_uid()}").status_code == 404
