"""Values of the contract as JSON and back."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from readingroom import errors, model, results
from readingroom.errors import Invalid
from readingroom.jsonio import dumps, from_json, loads, to_json
from readingroom.model import Evidence, Finding, Study, WorkItem
from readingroom.results import Coerce, Reject, Triage

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
VALUES = [
    kind
    for module in (model, results)
    for kind in vars(module).values()
    if dataclasses.is_dataclass(kind) and isinstance(kind, type) and kind.__module__ == module.__name__
]

_words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
_moments = st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC))
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))
st.register_type_strategy(datetime, _moments)
st.register_type_strategy(str, _words)


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: kind.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_value_of_the_contract_comes_back_as_it_was(kind: type[Any], data: st.DataObject) -> None:
    fields = {
        one.name: {"a": 1, "b": [None, "c", 2.5]} if one.name == "details" else None for one in dataclasses.fields(kind)
    }
    given_fields = {
        name: st.just(fixed) if fixed is not None else st.from_type(hint)
        for (name, fixed), hint in zip(fields.items(), _hints(kind), strict=True)
    }
    value = data.draw(st.fixed_dictionaries(given_fields).map(lambda told: kind(**told)))
    assert loads(kind, dumps(value)) == value


def _hints(kind: type[Any]) -> list[Any]:
    import typing

    hints = typing.get_type_hints(kind)
    return [hints[one.name] for one in dataclasses.fields(kind)]


def test_a_moment_of_any_zone_comes_back_as_the_same_moment_in_utc() -> None:
    there = AT.astimezone(timezone(timedelta(hours=-5)))
    assert from_json(datetime, to_json(there)) == AT
    assert from_json(datetime, to_json(there)).tzinfo is UTC


def test_a_span_keeps_its_microseconds() -> None:
    span = timedelta(days=900_000_000, microseconds=1)
    assert from_json(timedelta, to_json(span)) == span


def test_numbers_of_numpy_travel_as_numbers() -> None:
    finding = Finding(text="x", probability=np.float32(0.5), measurements={"ml": np.int64(3)})
    assert to_json(finding)["probability"] == 0.5
    assert type(to_json(finding)["measurements"]["ml"]) is int


def test_one_of_several_classes_is_known_by_its_name() -> None:
    kind = Reject | Coerce | None
    for value in (Reject(because="no"), Coerce(changes={"PatientID": "1"}), None):
        assert from_json(kind, to_json(value)) == value


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (datetime(2026, 1, 1), "without a zone"),
        (Finding(text="x", probability=float("nan")), "probability is nan"),
        (Triage(findings=(Finding(text=object()),)), r"findings\[0\].text is a object"),
        ({1: "x"}, "has the key 1"),
        (b"x", "is a bytes"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(value: object, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        to_json(value)


FINDING = to_json(Finding(text="x", evidence=(Evidence(series_uid="1", instance_uid="2"),)))


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (Finding, FINDING | {"text": 3}, "text is no text"),
        (Finding, FINDING | {"colour": "red"}, "no field 'colour'"),
        (Finding, {"@": "Finding"}, "lacks the field 'text'"),
        (Finding, FINDING | {"@": "Study"}, "The value is no Finding"),
        (Finding, "x", "The value is no Finding"),
        (Finding, FINDING | {"category": 4}, "category is no"),
        (Finding, FINDING | {"probability": True}, "probability is no number"),
        (Finding, FINDING | {"evidence": [{"@": "Evidence", "series_uid": "1"}]}, r"evidence\[0\] lacks"),
        (Finding, FINDING | {"evidence": {}}, "evidence is no array"),
        (Reject | Coerce, {"@": "Veto", "because": "x"}, "no Reject or Coerce"),
        (tuple[int, int], [1, 2, 3], "has 3 values, not 2"),
        (str, "a\0b", "holds a NUL"),
        (str, "a\ud800", "no text of Unicode"),
        (int, 1.0, "no whole number"),
        (int, True, "no whole number"),
        (bool, 1, "no truth value"),
        (datetime, "soon", "no time of ISO 8601"),
        (datetime, "2026-01-01T00:00:00", "without a zone"),
        (timedelta, 10**30, "too long"),
        (Literal["a", 1], True, "none of 'a', 1"),
        (None.__class__, 0, "no null"),
        (dict[str, int], {"a": "b"}, "a is no whole number"),
    ],
)
def test_what_is_not_of_the_type_is_refused_with_its_place(kind: Any, value: Any, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        from_json(kind, value)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, b"\xff", "NaN"])
def test_what_is_no_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(Invalid):
        loads(Finding, text)


def test_fields_that_are_left_out_have_their_defaults() -> None:
    told = {"@": "WorkItem", "id": "1", "kind": "read", "state": "ready", "facility": "north", "version": 1}
    assert from_json(WorkItem, told) == WorkItem(id="1", kind="read", state="ready", facility="north", version=1)
    assert from_json(Study, {"@": "Study", "study_uid": "1", "facility": "f", "patient": "p"}).series == ()


def test_every_error_has_a_sentence() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.ReadingRoomError):
            assert kind().message.endswith(".")
