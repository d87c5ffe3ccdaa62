"""Layers over a received data set, and what is told of the values that they took the place of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from storage.overlay import (
    ORIGINAL_ATTRIBUTES,
    Came,
    Correction,
    coerced_of,
    difference,
    extras_of,
    layers_over,
    overlay_of,
    put_over,
)
from storage.trailer import Description

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
CAME = Came(source="stow", received_at=NOON, coerced={})


def text(value: str) -> dict[str, Any]:
    return {"vr": "LO", "Value": [value]}


RECEIVED = {"00080050": text("A100"), "00100020": text("old"), "0020000D": {"vr": "UI", "Value": ["1.2.3"]}}


def correction(
    version: int, attributes: dict[str, Any], *, minutes: int = 1, series: str = "", instance: str = ""
) -> Correction:
    return Correction(
        owner_facility="local",
        study_uid="1.2.3",
        series_uid=series,
        instance_uid=instance,
        version=version,
        attributes=attributes,
        actor="somebody",
        reason="wrong",
        at=NOON + timedelta(minutes=minutes),
    )


def told(overlay: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Of each item: why, and the previous values."""
    items = overlay[ORIGINAL_ATTRIBUTES]["Value"]
    for item in items:
        assert list(item) == sorted(item)
        assert item["04000563"]["Value"] == ["readingroom"]
        assert item["04000564"]["Value"] == ["stow"]
        assert len(item["04000550"]["Value"]) == 1
    return [(item["04000565"]["Value"][0], item["04000550"]["Value"][0]) for item in items]


def test_a_layer_sets_adds_and_takes_away() -> None:
    shown = put_over(RECEIVED, {"00100020": text("new"), "00080050": None, "00100010": {"vr": "PN"}, "00100040": None})
    assert shown == {"00100010": {"vr": "PN"}, "00100020": text("new"), "0020000D": RECEIVED["0020000D"]}
    assert list(shown) == sorted(shown)
    assert RECEIVED["00100020"] == text("old")


def test_without_any_correction_nothing_lies_over_it() -> None:
    assert overlay_of(RECEIVED, CAME, []) == {}


def test_previous_values_are_told_with_when_and_why() -> None:
    overlay = overlay_of(
        RECEIVED, CAME, [correction(1, {"00100020": text("new"), "00080050": None, "00100040": text("F")})]
    )
    assert {tag: overlay[tag] for tag in ("00080050", "00100020", "00100040")} == {
        "00080050": None,
        "00100020": text("new"),
        "00100040": text("F"),
    }
    previous = {"00080050": text("A100"), "00100020": text("old"), "00100040": {"vr": "LO"}}
    assert told(overlay) == [("CORRECT", previous)]
    assert overlay[ORIGINAL_ATTRIBUTES]["Value"][0]["04000562"]["Value"] == ["20260102120100.000000+0000"]


def test_each_change_is_told_for_itself() -> None:
    once, twice = {"00100020": text("new")}, {"00100020": text("newer"), "00080050": text("B")}
    overlay = overlay_of(RECEIVED, CAME, [correction(1, once), correction(2, twice, minutes=2)])
    assert overlay["00100020"] == text("newer")
    assert told(overlay) == [
        ("CORRECT", {"00100020": text("old")}),
        ("CORRECT", {"00080050": text("A100"), "00100020": text("new")}),
    ]


def test_what_is_taken_back_leaves_nothing() -> None:
    assert overlay_of(RECEIVED, CAME, [correction(1, {"00100020": text("new")}), correction(2, {}, minutes=2)]) == {}


def test_a_correction_to_the_value_that_came_changes_nothing() -> None:
    assert overlay_of(RECEIVED, CAME, [correction(1, {"00100020": text("old")})]) == {}


def test_what_came_after_a_correction_was_changed_once_and_as_it_came() -> None:
    late = Came(source="stow", received_at=NOON + timedelta(hours=1), coerced={})
    corrections = [correction(1, {"00100020": text("new")}), correction(2, {"00100020": text("newer")}, minutes=2)]
    overlay = overlay_of(RECEIVED, late, corrections)
    assert told(overlay) == [("CORRECT", {"00100020": text("old")})]
    assert overlay[ORIGINAL_ATTRIBUTES]["Value"][0]["04000562"]["Value"] == ["20260102130000.000000+0000"]


def test_the_closer_layer_lies_over_the_wider_one_whichever_came_first() -> None:
    close = correction(1, {"00080080": text("series")}, series="1.4")
    wide = correction(2, {"00080080": text("study"), "00100020": text("new")}, minutes=2)
    overlay = overlay_of(RECEIVED, CAME, [close, wide])
    assert (overlay["00080080"], overlay["00100020"]) == (text("series"), text("new"))
    assert layers_over([wide, close], "1.4", "1.5") == [wide.attributes, close.attributes]
    assert layers_over([wide, close], "1.9", "1.5") == [wide.attributes]


def test_corrections_lie_over_what_was_coerced() -> None:
    came = Came(source="stow", received_at=NOON, coerced={"00100020": text("N-old"), "00100021": text("NORTH")})
    assert told(overlay_of(RECEIVED, came, [])) == [
        ("COERCE", {"00100020": text("old"), "00100021": {"vr": "LO"}}),
    ]
    overlay = overlay_of(RECEIVED, came, [correction(1, {"00100020": text("new")})])
    assert overlay["00100020"] == text("new")
    assert overlay["00100021"] == text("NORTH")
    assert told(overlay)[1] == ("CORRECT", {"00100020": text("N-old")})


def test_an_earlier_history_stays_in_front() -> None:
    before = {"04000565": {"vr": "CS", "Value": ["COERCE"]}}
    received = RECEIVED | {ORIGINAL_ATTRIBUTES: {"vr": "SQ", "Value": [before]}}
    overlay = overlay_of(received, CAME, [correction(1, {"00100020": text("new")})])
    assert overlay[ORIGINAL_ATTRIBUTES]["Value"][0] == before
    assert len(overlay[ORIGINAL_ATTRIBUTES]["Value"]) == 2


def test_a_long_value_is_told_by_its_vr_alone() -> None:
    received = RECEIVED | {"00104000": {"vr": "LT", "BulkDataURI": "\x01/x"}}
    overlay = overlay_of(received, CAME, [correction(1, {"00104000": {"vr": "LT", "Value": ["short"]}})])
    assert told(overlay) == [("CORRECT", {"00104000": {"vr": "LT"}})]
    item = {"00081199": {"vr": "SQ", "Value": [{"00420011": {"vr": "OB", "BulkDataURI": "\x01/x"}}]}}
    assert difference({}, item) == {"00081199": {"vr": "SQ", "Value": [{"00420011": {"vr": "OB"}}]}}


def test_an_object_says_of_itself_what_was_coerced() -> None:
    coerced = {"00100020": text("ü"), "00080050": None}
    description = Description(
        size=1, sha256="", owner_facility="f", source="s", received_at=NOON, version=1, extras=extras_of(coerced)
    )
    assert coerced_of(description) == coerced
    assert extras_of({}) == {}


TAGS = st.sampled_from(["00080050", "00100010", "00100020", "00100040", "0020000D"])
ELEMENTS = st.sampled_from([text("a"), text("b"), {"vr": "LO"}])
DATA_SETS = st.dictionaries(TAGS, ELEMENTS)
LAYERS = st.dictionaries(TAGS, st.none() | ELEMENTS)


@given(DATA_SETS, DATA_SETS)
def test_the_difference_makes_the_one_of_the_other(received: dict[str, Any], shown: dict[str, Any]) -> None:
    assert put_over(received, difference(received, shown)) == dict(sorted(shown.items()))


@given(DATA_SETS, LAYERS, st.lists(st.tuples(LAYERS, st.sampled_from(["", "1.4", "1.5"]))))
def test_what_was_received_can_be_told_from_what_is_shown(
    received: dict[str, Any], coerced: dict[str, Any], layers: list[tuple[dict[str, Any], str]]
) -> None:
    """Undone one by one, the last first, the changes that are told lead back to what came."""
    came = Came(source="stow", received_at=NOON, coerced=coerced)
    corrections = [correction(n, layer, minutes=n, series=series) for n, (layer, series) in enumerate(layers, 1)]
    over = [one for one in corrections if one.covers("1.4", "1.9")]
    shown = put_over(received, overlay_of(received, came, over))
    expected = received
    for layer in (coerced, *layers_over(corrections, "1.4", "1.9")):
        expected = put_over(expected, layer)
    items = shown.pop(ORIGINAL_ATTRIBUTES, {"Value": []})["Value"]
    assert shown == dict(sorted(expected.items()))
    for item in reversed(items):
        (previous,) = item["04000550"]["Value"]
        shown |= previous
    assert {tag: one for tag, one in shown.items() if one != {"vr": "LO"}} == {
        tag: one for tag, one in received.items() if one != {"vr": "LO"}
    }
