"""Deleting, restoring and purging over HTTP and by hand; what comes again; notes that reject."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import sqlalchemy as sa
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from starlette.testclient import TestClient

from readingroom.clock import SetClock
from readingroom.errors import Conflict, NotFound, Refused, Unavailable
from readingroom.model import LOCAL_OPERATOR, Actor, Scope, Study
from server.app import create_app
from server.hooks import Hooks, find_plugins
from server.ingest import Ingest
from server.purging import Purged, purge, purge_due, vetoes_of
from server.removing import remove
from server.removing import restore as restore_
from server.room import Room
from server.settings import Settings
from server.settle import describe_stale
from storage.blobs import Blobs
from storage.catalog import schema as t
from tests.retrieve import AS_STORED_PARTS, NATIVE_FRAMES, keep, url_of
from tests.stow import AS_STORED, STUDIES, store
from tests.synthetic import cine, ct_series, new_uid, part10, pdf_document, text_report
from tests.synthetic import rejection_note as note

EVERYWHERE = pytest.mark.rooms("sqlite", "postgres", "s3")
BOTH = pytest.mark.rooms("sqlite", "postgres")

NOT_AUTHORIZED = 0x0124


def delete(client: httpx.Client, dataset: Dataset, level: str = "instance") -> int:
    return client.delete(url_of(dataset, level=level)).status_code


def restore(client: httpx.Client, dataset: Dataset, level: str = "instance", **params: str) -> int:
    return client.post(f"{url_of(dataset, level=level)}/restore", params=params).status_code


def found(client: httpx.Client, path: str, **params: str) -> list[dict[str, Any]]:
    response = client.get(f"/dicomweb{path}", params=params)
    return response.json() if response.status_code == 200 else []


def is_shown(client: httpx.Client, dataset: Dataset) -> bool:
    response = client.get(url_of(dataset), headers=AS_STORED)
    assert response.status_code in (200, 410), response.text
    return response.status_code == 200


def objects(blobs: Blobs) -> set[str]:
    return {key for key in blobs.keys("s/") if "/x/" not in key and not key.endswith("zarr.json")}


def events(room: Room) -> list[tuple[str, dict[str, Any]]]:
    rows = room.query(lambda c: c.execute(sa.select(t.event.c.type, t.event.c.payload).order_by(t.event.c.seq)).all())
    return [(row.type, orjson.loads(row.payload)) for row in rows]


# -- deleting --------------------------------------------------------------------------------------------------------


@EVERYWHERE
def test_a_deleted_instance_is_gone_from_everywhere_and_its_neighbours_are_not(client: httpx.Client) -> None:
    first, second = slices = ct_series(2)
    keep(client, *slices)
    assert delete(client, first) == 204
    url = url_of(first)
    for path in ("", "/metadata", "/frames/1", "/bulkdata", "/bulkdata/7FE00010", "/rendered", "/thumbnail"):
        assert client.get(url + path).status_code == 410, path
    assert client.get(f"{url}?version=1").status_code == 410
    assert "was removed" in client.get(url).text
    assert is_shown(client, second)
    (study,) = found(client, "/studies")
    assert study["00201208"]["Value"] == [1]
    (row,) = found(client, "/instances")
    assert row["00080018"]["Value"] == [second.SOPInstanceUID]
    (only,) = client.get(f"{url_of(first, level='series')}/metadata").json()
    assert only["00080018"]["Value"] == [second.SOPInstanceUID]


@BOTH
def test_a_deleted_series_takes_its_modality_along(client: httpx.Client) -> None:
    image = ct_series(1)[0]
    report = text_report(StudyInstanceUID=image.StudyInstanceUID)
    keep(client, image, report)
    assert delete(client, report, "series") == 204
    (study,) = found(client, "/studies")
    assert study["00080061"]["Value"] == ["CT"]
    assert study["00201206"]["Value"] == [1]
    assert found(client, "/studies", ModalitiesInStudy="SR") == []
    for path in ("", "/metadata", "/rendered", "/bulkdata"):
        assert client.get(url_of(report, level="series") + path).status_code == 410
    assert found(client, f"/studies/{image.StudyInstanceUID}/series", Modality="SR") == []


@EVERYWHERE
def test_a_deleted_study_is_gone_at_every_level_and_deleting_again_says_so(client: httpx.Client) -> None:
    slices = ct_series(3)
    keep(client, *slices)
    assert delete(client, slices[0], "study") == 204
    assert found(client, "/studies") == found(client, "/series") == found(client, "/instances") == []
    for level in ("study", "series", "instance"):
        assert client.get(url_of(slices[0], level=level), headers=AS_STORED_PARTS).status_code == 410
        assert client.head(f"{url_of(slices[0], level=level)}/metadata").status_code == 410
        assert delete(client, slices[0], level) == 410


def test_what_never_was_is_404_and_so_is_a_child_of_another_parent(client: httpx.Client) -> None:
    one, other = ct_series(1)[0], cine()
    keep(client, one, other)
    assert client.delete(f"{STUDIES}/1.2.3").status_code == 404
    assert client.delete(f"{url_of(one, level='study')}/series/1.2.3").status_code == 404
    crossed = f"{url_of(one, level='series')}/instances/{other.SOPInstanceUID}"
    assert client.delete(crossed).status_code == 404
    assert delete(client, other) == 204
    assert client.get(crossed).status_code == 404


def test_a_deletion_takes_no_version(client: httpx.Client) -> None:
    image = cine()
    keep(client, image)
    assert client.delete(f"{url_of(image)}?version=1").status_code == 400
    assert is_shown(client, image)


def test_frames_that_were_just_shown_are_gone_with_the_instance(client: httpx.Client) -> None:
    slices = ct_series(4)
    keep(client, *slices)
    for one in slices:
        assert client.get(f"{url_of(one)}/frames/1", headers=NATIVE_FRAMES).status_code == 200
    assert delete(client, slices[0], "series") == 204
    for one in slices:
        assert client.get(f"{url_of(one)}/frames/1", headers=NATIVE_FRAMES).status_code == 410


@BOTH
def test_a_facility_deletes_only_its_own(client: httpx.Client) -> None:
    dataset = cine()
    image = part10(dataset)
    for facility in ("north", "south"):
        assert store(client, image, to=f"/dicomweb/f/{facility}/studies").status == 200
    url = url_of(dataset)
    north, south = (url.replace("/dicomweb/", f"/dicomweb/f/{facility}/") for facility in ("north", "south"))
    assert client.delete(url).status_code == 409  # whose?
    assert client.delete(north.replace("north", "west")).status_code == 404
    assert client.delete(north).status_code == 204
    assert client.get(north).status_code == 410
    assert client.get(south, headers=AS_STORED).status_code == 200
    assert client.get(url, headers=AS_STORED).status_code == 200  # there is but one left
    assert client.get(north.replace("north", "west")).status_code == 404, "out of scope is as if it never was"
    assert client.post(f"{north.replace('north', 'west')}/restore").status_code == 404
    assert client.post(f"{north}/restore").status_code == 204
    assert client.get(north, headers=AS_STORED).status_code == 200


def test_who_may_not_delete_is_refused(room: Room, client: httpx.Client) -> None:
    image = cine()
    keep(client, image)
    guest = Actor(id="guest", name="A guest")
    with pytest.raises(Refused, match="guest may not"):
        remove(room.engine, room.blobs, room.clock, guest, Scope(), image.StudyInstanceUID)
    assert is_shown(client, image)


def test_deletion_can_be_refused_by_a_setting(room: Room, client: httpx.Client) -> None:
    image = cine()
    keep(client, image)
    strict = replace(room, settings=room.settings.model_copy(update={"deletion": "refused"}))
    with TestClient(create_app(strict), base_url="http://127.0.0.1:8780") as other:
        response = other.delete(url_of(image))
        assert response.status_code == 403
        assert "the setting 'deletion' refuses it" in response.text
    assert is_shown(client, image)


def test_all_versions_go_together_and_the_newest_comes_back(client: httpx.Client) -> None:
    image = cine()
    keep(client, image)
    image.ImageComments = "sent again"
    newest = part10(image)
    store(client, newest)
    assert delete(client, image) == 204
    for version in ("1", "2"):
        assert client.get(url_of(image), params={"version": version}).status_code == 410
    assert restore(client, image) == 204
    assert client.get(url_of(image), headers=AS_STORED).content == newest
    assert client.get(f"{url_of(image)}?version=1", headers=AS_STORED).status_code == 200


@BOTH
def test_the_zarr_files_of_a_settled_study_follow_what_is_removed(room: Room, client: httpx.Client) -> None:
    slices = ct_series(3)
    keep(client, *slices)
    assert delete(client, slices[1]) == 204

    def live() -> list[str]:
        (key,) = [key for key in room.blobs.keys("s/") if key.endswith("a0/zarr.json")]
        uids: list[str] = orjson.loads(room.blobs.read(key))["attributes"]["dicom"]["instance_uids"]
        return uids

    assert describe_stale(room) == 1
    assert live() == [slices[0].SOPInstanceUID, slices[2].SOPInstanceUID]
    assert describe_stale(room) == 0
    assert restore(client, slices[1], "study") == 204
    assert describe_stale(room) == 1
    assert live() == [one.SOPInstanceUID for one in slices]


# -- restoring, and storing again ------------------------------------------------------------------------------------


@EVERYWHERE
def test_what_was_deleted_comes_back_as_it_was(client: httpx.Client) -> None:
    slices = ct_series(3)
    files = keep(client, *slices)
    before = found(client, "/studies"), found(client, "/series"), found(client, "/instances")
    for level in ("study", "series", "instance"):
        assert delete(client, slices[1], level) == 204
        assert restore(client, slices[1], level) == 204
        assert (found(client, "/studies"), found(client, "/series"), found(client, "/instances")) == before
        for one, file in zip(slices, files, strict=True):
            assert client.get(url_of(one), headers=AS_STORED).content == file


def test_only_what_was_removed_can_be_restored(client: httpx.Client) -> None:
    image = cine()
    keep(client, image)
    assert restore(client, image) == 404
    assert client.post(f"{STUDIES}/1.2.3/restore").status_code == 404
    assert client.post(f"{url_of(image)}/restore?force=yes").status_code == 400


@EVERYWHERE
def test_the_same_bytes_again_restore_what_was_deleted(room: Room, client: httpx.Client) -> None:
    first, second = slices = ct_series(2)
    file, _ = keep(client, *slices)
    kept = objects(room.blobs)
    assert delete(client, first, "study") == 204
    assert store(client, file).status == 200
    assert client.get(url_of(first), headers=AS_STORED).content == file
    assert not is_shown(client, second)
    assert objects(room.blobs) == kept
    assert [kind for kind, _ in events(room)] == ["InstancesStored", "InstancesRemoved", "InstancesRestored"]
    (study,) = found(client, "/studies")
    assert study["00201208"]["Value"] == [1]


@BOTH
@pytest.mark.parametrize("duplicates", ["version", "reject", "keep-first"])
def test_other_bytes_follow_what_was_deleted_as_a_new_version(
    room: Room, duplicates: str, clock: SetClock, client: httpx.Client
) -> None:
    image = cine()
    keep(client, image)
    assert delete(client, image) == 204
    image.ImageComments = "corrected"
    settings = room.settings.model_copy(update={"duplicates": duplicates})
    ingest = Ingest(engine=room.engine, blobs=room.blobs, clock=clock, settings=settings)
    (outcome,) = ingest.store([part10(image)], facility="local", source="test")
    ingest.close()
    assert outcome.result == "new version"
    assert client.get(url_of(image), headers=AS_STORED).content == part10(image)
    assert client.get(f"{url_of(image)}?version=1", headers=AS_STORED).status_code == 200
    assert (delete(client, image), restore(client, image)) == (204, 204)
    assert client.get(url_of(image), headers=AS_STORED).content == part10(image)


def test_removal_and_restoration_are_told_as_events(room: Room, client: httpx.Client) -> None:
    first, second = slices = ct_series(2)
    keep(client, *slices)
    delete(client, first)
    delete(client, first, "study")
    restore(client, first, "study")
    told = events(room)[1:]
    assert [kind for kind, _ in told] == ["InstancesRemoved", "InstancesRemoved", "InstancesRestored"]
    series = [list(payload["series"].values()) for _, payload in told]
    assert series[0] == [[first.SOPInstanceUID]]
    assert series[1] == [[second.SOPInstanceUID]]
    assert sorted(series[2][0]) == sorted([first.SOPInstanceUID, second.SOPInstanceUID])
    assert told[0][1]["reason"] == "deleted"
    assert told[0][1]["actor"] == "local-operator"


# -- purging ---------------------------------------------------------------------------------------------------------


def run_purge(room: Room, clock: SetClock, days: float = 0) -> int:
    before = clock.now() - timedelta(days=days)
    return purge(room.engine, room.blobs, room.clock, before=before, forget=room.renditions.forget).instances


@EVERYWHERE
def test_what_was_removed_long_enough_ago_is_purged_and_stays_known(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    first, second = slices = ct_series(2)
    document = pdf_document(StudyInstanceUID=first.StudyInstanceUID)
    file, *_ = keep(client, *slices, document)
    delete(client, first)
    clock.advance(timedelta(days=3))
    delete(client, document)
    clock.advance(timedelta(days=3))
    before = objects(room.blobs)
    assert run_purge(room, clock, 7) == 0
    assert run_purge(room, clock, 5) == 1
    assert len(objects(room.blobs)) == len(before) - 1
    assert run_purge(room, clock) == 1
    assert len(objects(room.blobs)) == 1
    assert not any("/o/0/" in key for key in room.blobs.keys("s/"))
    assert run_purge(room, clock) == 0
    for one in (first, document):
        assert client.get(url_of(one)).status_code == 410
        assert restore(client, one) == 410
    assert is_shown(client, second)
    assert client.get(f"{url_of(second)}/frames/1", headers=NATIVE_FRAMES).status_code == 200
    rows = room.query(lambda c: c.execute(sa.select(t.instance_metadata.c.instance)).all())
    assert len(rows) == 1
    assert [kind for kind, _ in events(room)].count("InstancesPurged") == 2
    assert store(client, file).status == 200
    assert client.get(url_of(first), headers=AS_STORED).content == file


def test_a_server_purges_by_its_policy_alone(room: Room, client: httpx.Client, clock: SetClock) -> None:
    image = cine()
    keep(client, image)
    delete(client, image)
    clock.advance(timedelta(days=4000))
    assert purge_due(room) == 0, "without a policy it is kept for ever"
    strict = replace(room, settings=room.settings.model_copy(update={"purge_after_days": 4001}))
    assert purge_due(strict) == 0
    clock.advance(timedelta(days=2))
    assert purge_due(strict) == 1


@BOTH
def test_a_plugin_keeps_a_study_that_is_removed_and_the_next_one_goes(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    kept, other = ct_series(2), cine()
    keep(client, *kept, other)
    delete(client, kept[0], "study")
    delete(client, other)
    clock.advance(timedelta(days=1))
    asked: list[tuple[str, tuple[str, ...], str]] = []

    def veto(study: Study, reason: str) -> str | None:
        asked.append((study.study_uid, study.modalities, reason))
        return "bones: kept for ever" if study.has("CT") else None

    def run() -> Purged:
        return purge(room.engine, room.blobs, room.clock, before=clock.now(), at_most=1, veto=veto)

    done, again = run(), run()
    assert (done.studies, again.studies) == (1, 0), "a study that is kept does not keep the next one"
    assert again.vetoed == [(kept[0].StudyInstanceUID, "bones: kept for ever")], "it is asked each time"
    assert {modalities for _, modalities, _ in asked} == {("CT",), ("OT",)}
    assert {reason for *_, reason in asked} == {"removed before 2026-01-02 12:00 UTC"}
    assert restore(client, kept[0]) == 204
    assert is_shown(client, kept[0])


def test_what_is_condemned_goes_whatever_a_plugin_says_and_nothing_more_is(
    room: Room, client: httpx.Client, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = ct_series(2)
    keep(client, first, second)
    delete(client, first)
    clock.advance(timedelta(days=1))
    with monkeypatch.context() as patched:
        patched.setattr(room.blobs, "delete", _fails)
        with pytest.raises(OSError, match="crashed"):
            run_purge(room, clock)
    delete(client, second)
    clock.advance(timedelta(days=1))
    done = purge(room.engine, room.blobs, room.clock, before=clock.now(), veto=lambda _study, _reason: "no")
    assert (done.instances, [because for _, because in done.vetoed]) == (1, ["no"])
    assert restore(client, first) == 410
    assert restore(client, second) == 204


def _fails(key: str) -> None:
    raise OSError("crashed")


def test_a_plugin_that_fails_keeps_what_is_to_be_purged(room: Room, tmp_path: Path) -> None:
    (tmp_path / "guard.py").write_text(GUARD)
    settings = room.settings.model_copy(update={"plugins_folder": tmp_path})
    with closing(Hooks(find_plugins(settings), clock=room.clock)) as hooks:
        ask = vetoes_of(hooks)
        one = Study(study_uid="1.2", facility="local", patient="p", modalities=("MG",))
        assert ask(one, "old") == "guard: kept for twenty years"
        assert ask(replace(one, modalities=("CT",)), "old") is None
        assert "guard: " in (ask(replace(one, modalities=("US",)), "old") or "")


GUARD = """
from readingroom import Veto, hookimpl

@hookimpl
def veto_purge(study, reason):
    if study.has("US"):
        raise RuntimeError("broken")
    return Veto(because="kept for twenty years") if study.has("MG") else None
"""


@BOTH
def test_nothing_of_the_patient_is_left_of_a_purged_study(room: Room, client: httpx.Client, clock: SetClock) -> None:
    slices = ct_series(2)
    keep(client, *slices)
    other = cine(PatientID="RR-0002")
    keep(client, other)
    for dataset in (*slices, other):
        client.get(f"{url_of(dataset)}/frames/1", headers={"Accept": "image/jls"}).raise_for_status()
    room.renditions.flush()
    delete(client, slices[0], "study")
    clock.advance(timedelta(days=1))
    assert run_purge(room, clock) == 2
    assert len([path for path in (room.settings.data / "renditions").rglob("*") if path.is_file()]) == 1
    for table in (t.study, t.series, t.patient, t.instance, t.instance_metadata):
        assert len(room.query(lambda c, table=table: c.execute(sa.select(table)).all())) == 1, table.name
    assert client.get(url_of(slices[0], level="study")).status_code == 410
    for key in room.blobs.keys("s/"):
        if "/x/" in key or key.endswith("zarr.json"):
            assert b"Phantom" not in room.blobs.read(key)


@EVERYWHERE
def test_corrections_go_with_the_last_of_a_study_and_not_before(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    first, second = slices = ct_series(2)
    files = keep(client, *slices)
    changed = {"00100010": {"vr": "PN", "Value": [{"Alphabetic": "Right^Rita"}]}}
    answer = client.patch(
        url_of(first, level="study"),
        params={"reason": "Wrong patient"},
        content=orjson.dumps(changed),
        headers={"Content-Type": "application/dicom+json"},
    )
    assert answer.status_code == 200, answer.text

    def names() -> int:
        return sum(b"Right^Rita" in room.blobs.read(key) for key in room.blobs.keys("s/") if "/x/" in key)

    for one, left in ((first, 1), (second, 0)):
        delete(client, one)
        clock.advance(timedelta(days=1))
        run_purge(room, clock)
        assert names() == left
        assert len(room.query(lambda c: c.execute(sa.select(t.overlay)).all())) == left
    store(client, files[0])
    (study,) = found(client, "/studies")
    assert study["00100010"]["Value"] == [{"Alphabetic": "Phantom^Ada"}]


@BOTH
def test_an_instance_that_moved_to_another_study_is_removed_from_there(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    image = cine()
    keep(client, image)
    old = url_of(image)
    image.StudyInstanceUID = new_uid()
    keep(client, image)
    assert client.delete(old).status_code == 404
    assert delete(client, image) == 204
    assert not is_shown(client, image)
    assert restore(client, image) == 204
    assert is_shown(client, image)
    keep(client, note("113039", image))
    assert not is_shown(client, image)
    clock.advance(timedelta(days=1))
    assert run_purge(room, clock) == 2  # the note goes with it
    assert objects(room.blobs) == set()
    assert room.query(lambda c: c.execute(sa.select(t.study)).all()) == []
    assert room.query(lambda c: c.execute(sa.select(t.patient)).all()) == []
    assert run_purge(room, clock) == 0


class Crash(Exception):
    """Power is gone."""


@BOTH
@pytest.mark.parametrize("at", ["the first object", "the second object", "the rows"])
def test_a_purge_that_was_cut_off_is_finished_by_the_next(
    room: Room, client: httpx.Client, clock: SetClock, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    slices = ct_series(2)
    files = keep(client, *slices)
    delete(client, slices[0], "study")
    clock.advance(timedelta(days=1))
    deleted: list[str] = []
    really = type(room.blobs).delete

    def failing(blobs: Blobs, key: str) -> None:
        if len(deleted) == ["the first object", "the second object"].index(at):
            raise Crash
        deleted.append(key)
        really(blobs, key)  # type: ignore[arg-type]

    def crash(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        if at == "the rows":
            patch.setattr("server.purging.erase", crash)
        else:
            patch.setattr(type(room.blobs), "delete", failing)
        with pytest.raises(Crash):
            run_purge(room, clock)
    assert client.get(url_of(slices[0])).status_code == 410
    assert restore(client, slices[0], "study") == 410
    answer = store(client, files[0])
    assert answer.failed == {slices[0].SOPInstanceUID: 0xA700}, "it is told to come again later"
    assert run_purge(room, clock) == 2
    assert objects(room.blobs) == set()
    assert store(client, *files).status == 200
    assert all(is_shown(client, one) for one in slices)


# -- rejection notes (IHE RAD TF-3 4.66) -----------------------------------------------------------------------------


@EVERYWHERE
@pytest.mark.parametrize(
    ("title", "note_shown", "comes_again"),
    [("113001", True, False), ("113037", True, False), ("113038", True, False), ("113039", False, True)],
)
def test_a_rejection_note_takes_instances_out_of_use(
    client: httpx.Client, title: str, note_shown: bool, comes_again: bool
) -> None:
    first, second = slices = ct_series(2)
    file, _ = keep(client, *slices)
    rejecting = note(title, first)
    keep(client, rejecting)
    assert (is_shown(client, first), is_shown(client, second)) == (False, True)
    assert is_shown(client, rejecting) is note_shown
    (study,) = found(client, "/studies")
    assert study["00201208"]["Value"] == [1 + note_shown]
    assert study["00080061"]["Value"] == (["CT", "KO"] if note_shown else ["CT"])
    answer = store(client, file)
    assert answer.status == (200 if comes_again else 409)
    assert answer.failed == ({} if comes_again else {first.SOPInstanceUID: NOT_AUTHORIZED})
    assert is_shown(client, first) is comes_again


def test_any_other_title_is_just_a_document(client: httpx.Client) -> None:
    image = cine()
    keep(client, image)
    keep(client, note("113000", image), note("113001", image, ConceptNameCodeSequence=Items()))
    elsewhere = note("113037", image)
    elsewhere.ConceptNameCodeSequence[0].CodingSchemeDesignator = "99OURS"
    keep(client, elsewhere)
    assert is_shown(client, image)


def test_a_note_that_comes_with_what_it_rejects_hides_it(client: httpx.Client) -> None:
    image = cine()
    keep(client, note("113037", image), image)
    assert not is_shown(client, image)


@BOTH
def test_a_note_that_comes_first_waits_for_what_it_rejects(client: httpx.Client) -> None:
    image = cine()
    keep(client, note("113037", image))
    assert client.get(url_of(image)).status_code == 404, "it never was here"
    answer = store(client, part10(image))
    assert answer.failed == {image.SOPInstanceUID: NOT_AUTHORIZED}
    assert client.get(url_of(image)).status_code == 404
    assert restore(client, image, rejected="true") == 204
    assert store(client, part10(image)).status == 200
    assert is_shown(client, image)


def test_a_note_over_several_studies_rejects_in_each(client: httpx.Client) -> None:
    one, other = cine(), ct_series(1)[0]
    keep(client, one, other)
    keep(client, note("113038", one, other))
    assert (is_shown(client, one), is_shown(client, other)) == (False, False)


def test_a_note_rejects_nothing_of_another_facility_or_under_another_study(client: httpx.Client) -> None:
    image, moved = cine(), cine()
    keep(client, image, moved)
    assert store(client, part10(note("113037", image)), to="/dicomweb/f/north/studies").status == 200
    wrong = note("113037", moved)
    wrong.CurrentRequestedProcedureEvidenceSequence[0].StudyInstanceUID = image.StudyInstanceUID
    keep(client, wrong)
    assert (is_shown(client, image), is_shown(client, moved)) == (True, True)


def test_what_was_rejected_is_restored_only_where_that_is_asked_for(client: httpx.Client) -> None:
    first, second, _ = slices = ct_series(3)
    files = keep(client, *slices)
    keep(client, note("113001", first))
    delete(client, second)
    assert restore(client, first) == 409
    assert restore(client, first, "study") == 204
    assert [is_shown(client, one) for one in slices] == [False, True, True]
    assert restore(client, first, "study", rejected="true") == 204
    assert is_shown(client, first)
    assert store(client, files[0]).status == 200


def test_deleting_a_note_does_not_undo_it(client: httpx.Client) -> None:
    image = cine()
    keep(client, image)
    rejecting = note("113037", image)
    keep(client, rejecting)
    assert delete(client, rejecting) == 204
    assert not is_shown(client, image)
    assert store(client, part10(image)).status == 409


def test_a_final_rejection_outlives_a_later_reason_that_is_not(client: httpx.Client) -> None:
    image = cine()
    keep(client, image)
    keep(client, note("113037", image))
    keep(client, note("113039", image))
    assert store(client, part10(image)).status == 409
    late = cine()
    keep(client, late)
    delete(client, late)
    keep(client, note("113001", late))
    assert store(client, part10(late)).status == 409, "deleted first, rejected after"


def test_a_retention_note_sent_twice_stays_hidden(client: httpx.Client) -> None:
    image = cine()
    keep(client, image)
    expired = note("113039", image)
    keep(client, expired)
    assert store(client, part10(expired)).status == 200
    assert not is_shown(client, expired)


def test_a_site_may_go_on_using_what_was_rejected_for_quality(
    room: Room, clock: SetClock, client: httpx.Client
) -> None:
    image = cine()
    keep(client, image)
    settings: Settings = room.settings.model_copy(update={"quality_rejections": "show"})
    ingest = Ingest(engine=room.engine, blobs=room.blobs, clock=clock, settings=settings)
    for title, shown in (("113001", True), ("113037", False)):
        list(ingest.store([part10(note(title, image))], facility="local", source="test"))
        assert is_shown(client, image) is shown
    ingest.close()


def test_a_note_that_is_nonsense_is_stored_and_rejects_nothing(client: httpx.Client) -> None:
    image = cine()
    keep(client, image)
    made = note("113037", image)
    evidence = made.CurrentRequestedProcedureEvidenceSequence[0]
    evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0].ReferencedSOPInstanceUID = ""
    keep(client, made)
    del evidence.ReferencedSeriesSequence
    made.SOPInstanceUID += ".1"
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    keep(client, made)
    assert is_shown(client, image)
    assert is_shown(client, made)


# -- all at once -----------------------------------------------------------------------------------------------------


@BOTH
def test_deleting_restoring_rejecting_purging_and_storing_at_once_leaves_everything_true(
    room: Room, client: httpx.Client, clock: SetClock
) -> None:
    studies = [ct_series(3) for _ in range(2)]
    files = [part10(one) for slices in studies for one in slices]
    notes = [part10(note("113039", studies[0][0], studies[1][1])) for _ in range(4)]
    store(client, *files)
    dice = random.Random(4)

    def act(number: int) -> None:
        slices = dice.choice(studies)
        uids = [slices[0].StudyInstanceUID, slices[0].SeriesInstanceUID, dice.choice(slices).SOPInstanceUID]
        live = room.engine, room.blobs, room.clock
        with suppress(NotFound, Conflict):
            match number % 6:
                case 0 | 1:
                    remove(*live, LOCAL_OPERATOR, Scope(), *uids[: dice.randint(1, 3)])
                case 2:
                    restore_(*live, LOCAL_OPERATOR, Scope(), *uids[: dice.randint(1, 3)], rejected=True)
                case 3 | 4:
                    several = [*dice.sample(files, 3), *dice.sample(notes, number % 2)]
                    for outcome in room.ingest.store(several, facility="local", source="test"):
                        assert outcome.error is None or isinstance(outcome.error, Unavailable)
                case 5:
                    purge(*live, before=clock.now() + timedelta(days=1))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(act, number) for number in range(90)]:
            done.result(timeout=60)
    purge(room.engine, room.blobs, room.clock, before=clock.now() - timedelta(days=1))  # what is half purged

    with room.engine.connect() as connection:
        states = sa.select(t.removal.c.instance_uid, t.removal.c.state)
        removed = {row.instance_uid: row.state for row in connection.execute(states)}
        rows = connection.execute(sa.select(t.instance)).all()
        counted = connection.execute(sa.select(sa.func.sum(t.study.c.instance_count))).scalar_one() or 0
        assert connection.execute(sa.select(t.side_record)).all() == []
    current = [row.instance_uid for row in rows if row.is_current]
    assert len(current) == len(set(current)) == counted
    assert not set(current) & set(removed), "shown, and told to be gone"
    hidden = {uid for uid, state in removed.items() if state == "hidden"}
    assert {row.instance_uid for row in rows} == set(current) | hidden
    assert set(removed.values()) <= {"hidden", "purged", "awaited"}
    assert objects(room.blobs) == {row.object_key for row in rows}
    with_study = {study["0020000D"]["Value"][0]: study["00201208"]["Value"][0] for study in found(client, "/studies")}
    assert sum(with_study.values()) == counted


@BOTH
def test_a_path_that_is_no_uid_is_no_accident(client: httpx.Client) -> None:
    for path in ("/studies/1%002", "/studies/1.2/series/%C3%BC", "/studies/" + "1" * 5000):
        assert client.delete(f"/dicomweb{path}").status_code in (400, 404)
        assert client.post(f"/dicomweb{path}/restore").status_code in (400, 404)
