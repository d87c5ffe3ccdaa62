"""The directory as files: TOML that a person writes, with sites as CSV; every error is told with its file and line."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from server.worklist.files import Place, Problem, WrongFile, read_toml, said, text_of
from storage.catalog.directory import Directory
from storage.directory import Entry, FacilityEntry, ReaderEntry, claimed_twice

_COLUMNS = ("id", "name", "state", "zone", "kind", "issuer", "address", "city", "postal_code", "npi", "clia")
_OF_OPERATOR = ("kind", "state", "zone")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What files say: the entries by id. A kind of which they have none is not told of at all."""

    facilities: Mapping[str, FacilityEntry]
    readers: Mapping[str, ReaderEntry]


@dataclass(slots=True)
class _Reading:
    """What has been read so far, and what was wrong with it."""

    problems: list[Problem] = field(default_factory=list)
    facilities: dict[str, tuple[FacilityEntry, Place]] = field(default_factory=dict)
    readers: dict[str, tuple[ReaderEntry, Place]] = field(default_factory=dict)
    seen: dict[tuple[type[Entry], str], str] = field(default_factory=dict)


def read_files(paths: Sequence[Path], known: Directory | None = None) -> Told:
    """Read a directory from its files, which are one: an entry of one may name those of another.

    Parameters
    ----------
    known
        What is in the catalog already, and may be named as well.

    Raises
    ------
    WrongFile
        Something is wrong; tells everything that is.
    NotFound
        There is no such file.
    """
    reading = _Reading()
    for path in paths:
        _read_file(reading, path)
    facilities = {id: entry for id, (entry, _) in reading.facilities.items()}
    _check_names(reading, {**(known.facilities if known else {}), **facilities})
    if reading.problems:
        raise WrongFile("The directory is", reading.problems)
    return Told(facilities=facilities, readers={id: entry for id, (entry, _) in reading.readers.items()})


def _read_file(reading: _Reading, path: Path) -> None:
    found = read_toml(reading.problems, path)
    if found is None:
        return
    document, place = found
    for key in document.keys() - {"facilities", "readers"}:
        reading.problems.append(place.problem(f"{key}: a directory has [[facilities]] and [[readers]] only", key))
    for number, given in _tables(reading, document, place, "facilities"):
        _read_facility(reading, given, place.within("facilities", number), path.parent)
    for number, given in _tables(reading, document, place, "readers"):
        _read_entry(reading, ReaderEntry, given, place.within("readers", number), reading.readers)


def _tables(
    reading: _Reading, given: Mapping[str, Any], place: Place, key: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    tables = given.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        reading.problems.append(place.problem(f"{key}: write each as a table below [[{key}]]", key))
        return
    yield from enumerate(tables)


def _read_facility(reading: _Reading, given: dict[str, Any], place: Place, folder: Path) -> None:
    """A facility, and its sites: those that stand below it, and those of a CSV file that it names."""
    own = {name: value for name, value in given.items() if name not in ("sites", "sites_csv")}
    _read_entry(reading, FacilityEntry, own, place, reading.facilities)
    inherited = {name: own[name] for name in _OF_OPERATOR if name in own} | {"parent": own.get("id")}
    for number, site in _tables(reading, given, place, "sites"):
        _read_entry(
            reading, FacilityEntry, inherited | site, place.within("sites", number), reading.facilities, inherited
        )
    if "sites_csv" in given:
        named = given["sites_csv"]
        if not isinstance(named, str) or not (folder / named).is_file():
            reading.problems.append(place.problem("sites_csv: there is no such file beside this one", "sites_csv"))
            return
        for site, line in _rows(reading, folder / named):
            at = Place(str(folder / named), lambda _, line=line: line)  # type: ignore[misc]
            _read_entry(reading, FacilityEntry, inherited | site, at, reading.facilities, inherited)


def _rows(reading: _Reading, path: Path) -> Iterator[tuple[dict[str, str], int]]:
    """The rows of a CSV file by the names of its first line, without what is empty, and their lines."""
    text = text_of(reading.problems, path)
    if text is None:
        return
    rows = csv.reader(StringIO(text, newline=""), strict=True)
    line = 1
    try:
        names = [name.strip() for name in next(rows, [])]
        wrong = [name for name in names if name not in _COLUMNS] + [
            name for name in ("id", "name") if name not in names
        ]
        if wrong:
            what = f"{wrong[0][:40]!r}: the first line names columns: id and name, and any of {', '.join(_COLUMNS[2:])}"
            reading.problems.append(Problem(file=str(path), line=1, what=what))
            return
        line = rows.line_num + 1
        for row in rows:
            if len(row) > len(names):
                what = f"there are {len(row)} values for {len(names)} columns"
                reading.problems.append(Problem(file=str(path), line=line, what=what))
            elif any(value.strip() for value in row):
                yield {name: value.strip() for name, value in zip(names, row, strict=False) if value.strip()}, line
            line = rows.line_num + 1
    except csv.Error as error:
        reading.problems.append(Problem(file=str(path), line=line, what=f"this is no CSV: {error}"))


def _read_entry[E: (FacilityEntry, ReaderEntry)](
    reading: _Reading,
    kind: type[E],
    given: dict[str, Any],
    place: Place,
    into: dict[str, tuple[E, Place]],
    inherited: Mapping[str, Any] | None = None,
) -> None:
    if isinstance(given.get("address"), str):
        given = given | {"address": [given["address"]]}
    id, here = given.get("id"), f"{place.file}:{place.line_of(('id',))}"
    first = reading.seen.get((kind, id)) if isinstance(id, str) else None
    if first is not None:
        reading.problems.append(place.problem(f"id: {id!r:.70} is given already at {first}", "id"))
    elif isinstance(id, str):
        reading.seen[kind, id] = here
    try:
        entry = kind.model_validate(given)
    except ValidationError as error:
        for one in error.errors(include_url=False, include_input=False, include_context=False):
            path = one["loc"]
            if inherited and path and path[0] in inherited and given[str(path[0])] is inherited[str(path[0])]:
                continue  # told of the operator
            name = ".".join(f"{part + 1}" if isinstance(part, int) else part for part in path)
            reading.problems.append(place.problem(": ".join(filter(None, (name, said(one)))), *path))
        return
    if first is None:
        into[entry.id] = entry, place


def _check_names(reading: _Reading, facilities: Mapping[str, FacilityEntry]) -> None:
    """That whatever is named is there, and that nobody is a site of its own."""
    for entry, place in reading.facilities.values():
        if entry.parent is None:
            continue
        if entry.parent not in facilities and (FacilityEntry, entry.parent) not in reading.seen:
            reading.problems.append(place.problem(f"parent: there is no facility {entry.parent!r}", "parent"))
        above, seen = facilities.get(entry.parent), {entry.id}
        while above is not None and above.id not in seen:
            seen.add(above.id)
            above = facilities.get(above.parent or "")
        if above is not None and above.id == entry.id:
            reading.problems.append(place.problem(f"parent: {entry.id} is a site of itself", "parent"))
    for what, first, second in claimed_twice(facilities.values()):
        owner, other = (first, second) if second in reading.facilities else (second, first)
        if other in reading.facilities:
            place = reading.facilities[other][1]
            key = "aes" if what.startswith("the AE") else "senders"
            reading.problems.append(place.problem(f"{key}: facility {owner} has {what} already", key))
    for reader, place in reading.readers.values():
        named = [credential.facility for credential in reader.credentials]
        for facility in dict.fromkeys(named):
            if facility not in facilities and (FacilityEntry, facility) not in reading.seen:
                what = f"credentials: there is no facility {facility!r}"
                reading.problems.append(place.problem(what, "credentials"))


# -- writing -----------------------------------------------------------------------------------------------------------


def write_text(directory: Directory) -> str:
    """A directory as one TOML file, which read again says the same."""
    parts = ["# Made by `readingroom directory export`; `readingroom directory import` takes it back.\n"]
    parts += [facility_text(facility) for facility in directory.facilities.values()]
    for reader in directory.readers.values():
        parts.append(_table("readers", reader.model_dump(by_alias=True, exclude_defaults=True)))
    return "\n".join(parts)


def facility_text(facility: FacilityEntry) -> str:
    """A facility as a TOML file has it."""
    told = facility.model_dump(by_alias=True, exclude_defaults=True)
    tables = {name: told.pop(name, ()) for name in ("aes", "senders", "destinations", "contracts")}
    parts = [_table(f"facilities.{name}", one) for name, several in tables.items() for one in several]
    return "\n".join((_table("facilities", told), *parts))


def _table(name: str, told: Mapping[str, Any]) -> str:
    return f"[[{name}]]\n" + "".join(f"{key} = {_value(value)}\n" for key, value in told.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, Sequence) and not isinstance(value, str):
        if any(isinstance(one, Mapping) for one in value):
            return "[\n" + "".join(f"    {_value(one)},\n" for one in value) + "]"
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False)
