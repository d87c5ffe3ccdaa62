"""What lies over a received data set: the file stays as it came, and its corrected values are put over it on read.

Three layers apply one over the other: what was coerced when the instance came, then the corrections of its study, of
its series and of itself. Of all this a reader sees the values that hold now, and in the Original Attributes Sequence
those they took the place of (PS3.3 C.12.1.1.9).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import orjson

from storage.dicomjson import MetadataJson
from storage.trailer import Description

Layer = Mapping[str, dict[str, Any] | None]
"""Elements of the DICOM JSON model by tag; None takes an attribute away."""

ORIGINAL_ATTRIBUTES = "04000561"
MODIFYING_SYSTEM = "readingroom"

_COERCED = "coerced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """One version of the layer over a study, a series or an instance.

    `version` counts the corrections of a study, at whatever level. `attributes` is all of the layer, not only what
    this version changed. `series_uid` and `instance_uid` are empty where it is over more than one.
    """

    owner_facility: str
    study_uid: str
    series_uid: str = ""
    instance_uid: str = ""
    version: int
    attributes: Layer
    actor: str
    reason: str
    at: datetime

    @property
    def target(self) -> tuple[str, str, str]:
        """Study, series and instance."""
        return self.study_uid, self.series_uid, self.instance_uid

    def covers(self, series_uid: str, instance_uid: str) -> bool:
        """Whether it is over this instance of its study."""
        return self.series_uid in ("", series_uid) and self.instance_uid in ("", instance_uid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """What an instance brought along: where it came from, when, and what was coerced as it came."""

    source: str
    received_at: datetime
    coerced: Layer


def coerced_of(told: Description) -> Layer:
    """What was coerced when an object came, as its own description says."""
    coerced: Layer = orjson.loads(told.extras.get(_COERCED, "{}"))
    return coerced


def extras_of(coerced: Layer) -> dict[str, str]:
    """What an object's description is to say of its coercion, so that it can be read without a database."""
    return {_COERCED: orjson.dumps(coerced).decode()} if coerced else {}


def put_over(below: MetadataJson, layer: Layer) -> MetadataJson:
    """A data set with a layer over it, in the order of its tags; `below` is left alone."""
    above = {**below, **{tag: element for tag, element in layer.items() if element is not None}}
    return {tag: above[tag] for tag in sorted(above) if layer.get(tag, above) is not None}


def latest(corrections: Sequence[Correction]) -> dict[tuple[str, str, str], Correction]:
    """The version that holds now, by target."""
    return {one.target: one for one in sorted(corrections, key=lambda one: one.version)}


def layers_over(corrections: Sequence[Correction], series_uid: str, instance_uid: str) -> list[Layer]:
    """What holds now over one instance, the lowest layer first; give an empty UID for a series, or for the study."""
    over = [one for one in latest(corrections).values() if one.covers(series_uid, instance_uid)]
    return [one.attributes for one in sorted(over, key=_height) if one.attributes]


def overlay_of(received: MetadataJson, came: Came, corrections: Sequence[Correction]) -> dict[str, Any]:
    """The one layer that makes of a received data set what is shown of it; empty where that is the same.

    The Original Attributes Sequence tells each change of this very instance: its coercion, then the corrections since
    it came. What had been corrected before it came counts as one change, at that time.

    Parameters
    ----------
    corrections
        All versions of the layers that cover the instance.
    """
    tags = {*came.coerced, *(tag for one in corrections for tag in one.attributes)}
    state = {tag: received[tag] for tag in tags if tag in received}
    below = {**state}
    items = []
    for layer, at, why in _changes(came, corrections):
        now = put_over(below, layer)
        changed = sorted(tag for tag in tags if state.get(tag) != now.get(tag))
        if changed:
            previous = {tag: _previous(state.get(tag), now.get(tag)) for tag in changed}
            items.append(_item(previous, at, why, came.source))
        state = now
    changed = sorted(tag for tag in tags if below.get(tag) != state.get(tag))
    if not changed:
        return {}
    before = received.get(ORIGINAL_ATTRIBUTES, {}).get("Value", [])
    overlay = {tag: state.get(tag) for tag in changed}
    overlay[ORIGINAL_ATTRIBUTES] = {"vr": "SQ", "Value": [*before, *items]}
    return dict(sorted(overlay.items()))


def told_changes(received: MetadataJson, shown: MetadataJson) -> list[MetadataJson]:
    """What the Original Attributes Sequence of a shown data set tells of changes since it was received."""
    before = received.get(ORIGINAL_ATTRIBUTES, {}).get("Value", [])
    items: list[MetadataJson] = shown[ORIGINAL_ATTRIBUTES]["Value"][len(before) :]
    return items


def difference(received: MetadataJson, shown: MetadataJson) -> dict[str, Any]:
    """The layer that makes `shown` of `received`; of a value that the JSON only names, it has no more than the VR."""
    tags = sorted({*received, *shown})
    return {tag: _whole(shown.get(tag)) for tag in tags if received.get(tag) != shown.get(tag)}


def _changes(
    came: Came, corrections: Sequence[Correction]
) -> Iterator[tuple[Layer, datetime, Literal["COERCE", "CORRECT"]]]:
    """After each change of an instance, in order: all that lies over it, when that was, and why."""
    if came.coerced:
        yield came.coerced, came.received_at, "COERCE"
    holds: dict[tuple[str, str, str], Correction] = {}
    ordered = sorted(corrections, key=lambda one: one.version)
    for number, one in enumerate(ordered, 1):
        holds[one.target] = one
        if number < len(ordered) and ordered[number].at < came.received_at:
            continue
        above: dict[str, Any] = {**came.coerced}
        for correction in sorted(holds.values(), key=_height):
            above |= correction.attributes
        yield above, max(one.at, came.received_at), "CORRECT"


def _height(correction: Correction) -> int:
    """Study, series, instance: the closer one lies over the wider one."""
    return bool(correction.series_uid) + bool(correction.instance_uid)


def _whole(element: Any) -> Any:
    if not isinstance(element, dict) or "BulkDataURI" in element:
        return element and {"vr": element["vr"]}
    if element.get("vr") != "SQ" or "Value" not in element:
        return element
    items = [{tag: _whole(inner) for tag, inner in (item or {}).items()} for item in element["Value"]]
    return {"vr": "SQ", "Value": items}


def _previous(before: dict[str, Any] | None, now: dict[str, Any] | None) -> dict[str, Any]:
    """The previous element; without a value where there was none, or it is too long to be said twice."""
    if before is not None and "BulkDataURI" not in before:
        return before
    return {"vr": (before or now or {"vr": "UN"})["vr"]}


def _item(previous: MetadataJson, at: datetime, why: str, source: str) -> MetadataJson:
    """An item of the Original Attributes Sequence (PS3.3 table C.12.1.1.9-1)."""
    return {
        "04000550": {"vr": "SQ", "Value": [previous]},
        "04000562": {"vr": "DT", "Value": [f"{at.astimezone(UTC):%Y%m%d%H%M%S.%f}+0000"]},
        "04000563": {"vr": "LO", "Value": [MODIFYING_SYSTEM]},
        "04000564": {"vr": "LO", "Value": [source[:64]]} if source else {"vr": "LO"},
        "04000565": {"vr": "CS", "Value": [why]},
    }
