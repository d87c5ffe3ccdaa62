"""Events outlive the release that wrote them."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from readingroom import events
from readingroom.errors import Invalid
from readingroom.events import EVENTS, Event, ItemChanged, StudySettled, pack_event, unpack_event

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_an_event_survives_json() -> None:
    event = ItemChanged(at=AT, facility="north", item="i", before=None, after="ready", actor="ada")
    told = json.loads(json.dumps(pack_event(event)))
    assert told["type"] == "ItemChanged"
    assert told["version"] == 1
    assert unpack_event(told) == event


def test_every_event_is_known_by_its_name() -> None:
    declared = [one for one in vars(events).values() if isinstance(one, type) and issubclass(one, Event)]
    assert set(EVENTS.values()) == set(declared) - {Event}


def test_an_event_of_an_older_release_is_brought_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    told = pack_event(StudySettled(at=AT, facility="north", study_uid="1.2"))
    told["uid"] = told.pop("study_uid")
    monkeypatch.setattr(StudySettled, "version", 2)
    upgrades = {("StudySettled", 1): lambda old: {"study_uid": old.pop("uid"), **old}}
    monkeypatch.setattr(events, "_UPGRADES", upgrades)
    assert unpack_event(told) == StudySettled(at=AT, facility="north", study_uid="1.2")


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"version": None}, {"type": "Nothing"}, {"type": 3}, {"at": "soon"}]
)
def test_an_event_that_is_not_known_is_refused(change: dict[str, object]) -> None:
    told = pack_event(StudySettled(at=AT, facility="north", study_uid="1.2"))
    with pytest.raises(Invalid):
        unpack_event(told | change)
