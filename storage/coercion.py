"""Coercion: what is changed of every object as it comes, by rules of the settings (PS3.18 10.5.3).

The bytes are kept as they came. What the rules make of them lies over them from the first moment on, and the object
itself says so in its trailer, so that it is known without a database too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from pydicom.datadict import dictionary_VR

from readingroom.errors import Invalid
from storage.changes import read_change, tag_of
from storage.dicomjson import MetadataJson
from storage.overlay import put_over

Element = dict[str, Any] | None
NOTHING: Mapping[str, str] = {}

_PREFIXED = frozenset({"LO", "SH", "UC"})
_TRIMMED = _PREFIXED | {"AE", "CS", "PN"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Coercion:
    """One rule, ready to use: by tag what it sets, gives where there is nothing, puts before a text, and so on."""

    facility: str
    source: str
    sets: Mapping[str, Element]
    defaults: Mapping[str, Element]
    prefixes: Mapping[str, str]
    trims: tuple[str, ...]

    @classmethod
    def of(
        cls,
        *,
        facility: str = "*",
        source: str = "*",
        trim: Iterable[str] = (),
        remove: Iterable[str] = (),
        set: Mapping[str, str] = NOTHING,
        default: Mapping[str, str] = NOTHING,
        prefix: Mapping[str, str] = NOTHING,
    ) -> Coercion:
        """The rule as one writes it in the settings: attributes by keyword or tag, values as text.

        Raises `Invalid` where it names what may not be changed, or a value that is none of its VR.
        """
        removed: dict[str, Element] = {tag_of(name): None for name in remove}
        return cls(
            facility=facility,
            source=source,
            sets=removed | dict(read_change(name, text) for name, text in set.items()),
            defaults=dict(read_change(name, text) for name, text in default.items()),
            prefixes={_tag(name, _PREFIXED): text for name, text in prefix.items()},
            trims=tuple(_tag(name, _TRIMMED) for name in trim),
        )

    def concerns(self, facility: str, source: str) -> bool:
        """Whether it is for what this facility gets from there."""
        return fnmatchcase(facility, self.facility) and fnmatchcase(source, self.source)

    def changes(self, metadata: MetadataJson) -> dict[str, Element]:
        """What it makes of the attributes of a data set that it names."""
        made: dict[str, Element] = {tag: _trimmed(metadata[tag]) for tag in self.trims if tag in metadata}
        made |= self.sets
        for tag, element in self.defaults.items():
            if not _has_value(made.get(tag, metadata.get(tag))):
                made[tag] = element
        for tag, prefix in self.prefixes.items():
            if tag in made or tag in metadata:
                made[tag] = _prefixed(made.get(tag, metadata.get(tag)), prefix)
        return made


def coerce(metadata: MetadataJson, coercions: Iterable[Coercion], *, facility: str, source: str) -> dict[str, Element]:
    """What the rules change of a data set, each applied to what the one before has made of it.

    Parameters
    ----------
    facility, source
        Who gets it, and where it comes from: ``stow``, ``import``, an AE title.

    Returns
    -------
    dict
        By tag the element that is shown from now on; None where the attribute is taken away.
    """
    made: dict[str, Element] = {}
    for one in coercions:
        if one.concerns(facility, source):
            made |= one.changes(put_over(metadata, made) if made else metadata)
    return {tag: element for tag, element in sorted(made.items()) if element != metadata.get(tag)}


def _tag(name: str, vrs: frozenset[str]) -> str:
    tag = tag_of(name)
    if dictionary_VR(int(tag, 16)) not in vrs:
        raise Invalid(f"{name} is no text of VR {', '.join(sorted(vrs))}.")
    return tag


def _has_value(element: Element) -> bool:
    return element is not None and any(element.keys() - {"vr"})


def _prefixed(element: Element, prefix: str) -> Element:
    """Every text with the prefix before it, once."""
    if element is None or "Value" not in element:
        return element
    values = [
        prefix + value if isinstance(value, str) and not value.startswith(prefix) else value
        for value in element["Value"]
    ]
    return {**element, "Value": values}


def _trimmed(element: dict[str, Any]) -> Element:
    """Texts without spaces around them, names without spaces around their components; none where nothing is left."""
    if "Value" not in element:
        return element
    values = [_trimmed_value(value) for value in element["Value"]]
    return {**element, "Value": values} if any(values) else {"vr": element["vr"]}


def _trimmed_value(value: Any) -> Any:
    if isinstance(value, dict):
        groups = {name: "^".join(map(str.strip, group.split("^"))).rstrip("^") for name, group in value.items()}
        return {name: group for name, group in groups.items() if group} or None
    return value.strip() or None if isinstance(value, str) else value
