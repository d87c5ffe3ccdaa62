"""Identifiers of queries that have sequences in them (PS3.4 C.2.2.2.6): what is to be matched, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from server.dimse.finding import key_text, vr_of
from storage.objects import MetadataJson

_MOST_DEPTH = 8


def key_values(asked: MetadataJson, above: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Each key with its value, as a query has it; one in a sequence is named by its path: ``0040A370.00080050``.

    Of a sequence the one item that it has says what is to be matched.
    """
    for tag, element in asked.items():
        if element.get("vr") != "SQ":
            yield above + tag, key_text(element)
        elif depth < _MOST_DEPTH:
            for item in _items(element)[:1]:
                yield from key_values(item, f"{above}{tag}.", depth + 1)


def picked(known: MetadataJson, asked: MetadataJson, depth: int = 0) -> MetadataJson:
    """What is asked for of a data set, empty where it is not there.

    Of items of a sequence all comes back, unless the identifier's item says what of them.
    """
    answer: MetadataJson = {}
    for tag, element in asked.items():
        found: dict[str, Any] = known.get(tag) or {"vr": "SQ" if element.get("vr") == "SQ" else vr_of(tag)}
        within = _items(element)
        if within and within[0] and depth < _MOST_DEPTH:
            items = [picked(item, within[0], depth + 1) for item in _items(found)]
            found = {"vr": "SQ", "Value": items} if items else {"vr": "SQ"}
        answer[tag] = found
    return answer


def _items(element: Mapping[str, Any]) -> list[MetadataJson]:
    return [one for one in element.get("Value") or () if isinstance(one, dict)] if element.get("vr") == "SQ" else []
