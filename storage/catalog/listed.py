"""Lists the values of attributes that no column holds: of names, in sequences, and what an operator made searchable.

Written in the ingest transaction. For a key that is new to what is stored already, `list_stored` goes through it in
the background, some entities at a time; `schema.search_key` says how far it has come.
"""

from __future__ import annotations

import zlib
from base64 import b64decode
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from storage.catalog import schema as t
from storage.catalog.engine import begin_write
from storage.catalog.keys import (
    KEYS,
    LEVELS,
    LISTED,
    WORDS,
    Key,
    Level,
    creator_of,
    listed_key,
    listed_keys,
)
from storage.catalog.normal import (
    LOCAL,
    LONGEST,
    OFFSET,
    UTC,
    fold_name,
    in_utc,
    join_word,
    name_words,
    normal_day,
    normal_moment,
    normal_number,
    normal_text,
    normal_time,
    sound_of,
)
from storage.catalog.rows import header_of
from storage.catalog.writers import insert_for
from storage.objects import BASE_URL_MARK, MetadataJson
from storage.values import character_set, readers

ListedKeys = Mapping[Level, tuple[Key, ...]]
"""The keys whose values are listed, by level."""

Value = tuple[str, str, str, int]
"""Key, value, item and number of a row of the ``..._value`` tables."""

_MOST_VALUES = 256
"""Values of one attribute that are listed; what has more is no key to search by."""

_DROPPED_AT_ONCE = 2000

# Built once: making a statement costs more than running it. A row may be there already, where two list the same.
_INSERTS = {
    (dialect, level): insert(table).on_conflict_do_nothing()
    for level, table in LISTED.items()
    for dialect, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}
_ENTITIES: Mapping[Level, sa.Table] = {"study": t.study, "series": t.series, "instance": t.instance}
_STATES = "SELECT name, state FROM search_key"
_CONFIGURED = sa.select(t.search_key.c.name, t.search_key.c.vr, t.search_key.c.level).where(
    t.search_key.c.state != "dropping"
)
_BUILT_IN = listed_keys(KEYS.values())
_READERS = readers("<")


def keys_at_ingest(connection: sa.Connection) -> ListedKeys:
    """The listed keys by level: those that are always there, and those that are configured for this catalog."""
    configured = [listed_key(*row) for row in connection.execute(_CONFIGURED) if row.name not in KEYS]
    if not configured:
        return _BUILT_IN
    return {level: (*_BUILT_IN[level], *(key for key in configured if key.level == level)) for level in LEVELS}


def list_values(
    connection: sa.Connection, level: Level, headers: Mapping[str, MetadataJson], keys: Sequence[Key]
) -> None:
    """List the values of new entities, given their headers by id."""
    rows = [
        {"key": key, "value": value, "entity": entity, "item": item, "number": number}
        for entity, header in headers.items()
        for key, value, item, number in values_of(header, keys)
    ]
    if rows:
        connection.execute(_INSERTS[connection.dialect.name, level], rows)


def relist_values(connection: sa.Connection, level: Level, headers: Mapping[str, MetadataJson]) -> None:
    """List the values of entities anew, given the headers that they are shown with now by id."""
    table = LISTED[level]
    connection.execute(table.delete().where(table.c.entity.in_(list(headers))))
    list_values(connection, level, headers, keys_at_ingest(connection)[level])


def relist_entities(connection: sa.Connection, level: Level, entities: Collection[str]) -> None:
    """The same, with the headers that the catalog has now; call it after one of them changed."""
    relist_values(connection, level, read_headers(connection, level, entities))


def read_headers(connection: sa.Connection, level: Level, entities: Collection[str]) -> dict[str, MetadataJson]:
    """The headers that entities are known by: of a study or series that of its first instance, under its own row."""
    own = _ENTITIES[level]
    statement = sa.select(own.c.id, header_json(level)).where(own.c.id.in_(list(entities)))
    if level == "instance":
        return {entity: load_header(json) for entity, json in connection.execute(statement) if json is not None}
    return {
        entity: (load_header(json) if json is not None else {}) | header_of(row, extra)
        for entity, json, row, extra in connection.execute(statement.add_columns(own.c.row, own.c.extra))
    }


def header_json(level: Level) -> sa.ColumnElement[bytes]:
    """The stored JSON of the instance that an entity of that level is known by, to be selected beside it."""
    json = t.instance_metadata.c.json
    if level == "instance":
        return sa.select(json).where(t.instance_metadata.c.instance == t.instance.c.id).scalar_subquery()
    first = t.instance.alias(f"first_of_{level}")
    of_it = sa.select(json).join(first, t.instance_metadata.c.instance == first.c.id)
    of_it = of_it.where(first.c[level] == _ENTITIES[level].c.id)
    return of_it.order_by(first.c.received_at, first.c.id).limit(1).scalar_subquery()


def load_header(json: bytes) -> MetadataJson:
    """A stored header; the mark of the service root stands raw in it and is left out."""
    loaded: MetadataJson = orjson.loads(zlib.decompress(json).replace(BASE_URL_MARK.encode(), b""))
    return loaded


def values_of(header: MetadataJson, keys: Sequence[Key]) -> list[Value]:
    """The rows that a header has for `keys`, each once; what is broken or too long has none."""
    found: dict[Value, None] = {}
    for key in keys:
        if key.path[0] in header or ":" in key.path[0]:
            for item, element, data_set in islice(_elements(header, key.path), _MOST_VALUES):
                charset = data_set.get("00080005") or header.get("00080005")
                for number, value in islice(enumerate(_values(element, key.vr, charset)), _MOST_VALUES):
                    found.update(dict.fromkeys(_rows(key, value, item, number, header)))
    return list(found)


def find_element(data_set: MetadataJson, part: str) -> tuple[str, Any]:
    """Tag and element of an attribute as a part of a key's name has it; an empty tag where it is not there.

    A private attribute lies in a block that its creator has reserved in this very data set (PS3.5 7.8.1).
    """
    if ":" not in part:
        return (part, data_set[part]) if part in data_set else ("", None)
    creator = creator_of(part)
    for tag, element in data_set.items():
        if tag[:6] == part[:4] + "00" and tag[6:] >= "10" and _first(element) == creator:
            own = part[:4] + tag[6:] + part[6:8]
            if own in data_set:
                return own, data_set[own]
    return "", None


def _elements(data_set: MetadataJson, path: tuple[str, ...], item: str = "") -> Iterator[tuple[str, Any, MetadataJson]]:
    """Every element at the end of a path, with the item that it is in and that item's data set."""
    tag, element = find_element(data_set, path[0])
    if not tag or not isinstance(element, dict):
        return
    if len(path) == 1:
        yield item, element, data_set
        return
    items = element.get("Value")
    for index, inner in enumerate(items[:0xFFFF] if isinstance(items, list) else ()):
        if isinstance(inner, dict):
            yield from _elements(inner, path[1:], f"{item}{index:04x}")


def _values(element: dict[str, Any], vr: str, charset: Any) -> list[Any]:
    """The values of an element; one that was sent as UN is read as what its key says that it is."""
    if element.get("vr") == "UN" and isinstance(element.get("InlineBinary"), str):
        terms = charset.get("Value") if isinstance(charset, dict) else None
        try:
            return _READERS[vr](b64decode(element["InlineBinary"]), character_set(terms)) or []
        except ValueError:
            return []
    values = element.get("Value")
    return values if isinstance(values, list) else []


def _rows(key: Key, value: Any, item: str, number: int, header: MetadataJson) -> Iterator[Value]:
    if key.vr == "PN":
        groups = value if isinstance(value, dict) else {}
        for index, name in enumerate(("Alphabetic", "Ideographic", "Phonetic")):
            if isinstance(groups.get(name), str) and (folded := fold_name(groups[name])[:LONGEST]):
                yield key.name, folded, item, 3 * number + index
                for word in _words(folded):
                    yield WORDS + key.name, word, item, 3 * number + index
    elif (text := normal_text(value)) is not None:
        for normal in _normal(key.vr, text, header):
            yield key.name, normal, item, number


def _words(folded: str) -> Iterator[str]:
    for parts in name_words(folded):
        for word in {*parts, join_word(parts)}:
            yield word
            if sound := sound_of(word):
                yield sound


def _normal(vr: str, text: str, header: MetadataJson) -> Iterator[str]:
    match vr:
        case "DA":
            value = normal_day(text)
        case "TM":
            value = normal_time(text)
        case "DS" | "FD" | "FL" | "IS" | "SL" | "SS" | "SV" | "UL" | "US" | "UV":
            value = normal_number(vr, text)
        case "DT":
            yield from _moments(text, header)
            return
        case _:
            value = text
    if value:
        yield value


def _moments(text: str, header: MetadataJson) -> Iterator[str]:
    """A DT value by its own clock, and in UTC where its offset or that of its data set is known."""
    moment = normal_moment(text)
    if moment:
        first, _, offset = moment
        own = offset or _first(header.get("00080201"))
        yield first
        yield UTC + in_utc(first, own) if isinstance(own, str) and OFFSET.fullmatch(own) else LOCAL + first


def _first(element: Any) -> Any:
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None


# -- what is stored already


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the listing of one key has come; `total` is how many entities there were when it began."""

    name: str
    done: int
    total: int

    @property
    def remaining(self) -> int:
        """How many of those that there were are still to be looked at."""
        return self.total - self.done


def sync_keys(engine: sa.Engine, configured: Collection[Key]) -> None:
    """Begin to list the keys that are new in the configuration, and to drop those that have left it."""
    wanted = {key.name: key for key in configured if key.name not in KEYS}
    with engine.connect() as connection:
        rows = {row.name: row for row in connection.execute(sa.select(t.search_key))}
        left = [
            row.name
            for row in rows.values()
            if row.name not in KEYS
            and row.state != "dropping"
            and (row.name not in wanted or (row.vr, row.level) != (wanted[row.name].vr, wanted[row.name].level))
        ]
        new = [key for name, key in wanted.items() if name not in rows]
        levels = {key.level for key in new}
        totals = {
            level: connection.execute(sa.select(sa.func.count()).select_from(_ENTITIES[level])).scalar_one()
            for level in levels
        }
    if not left and not new:
        return
    with begin_write(engine) as connection:
        if connection.dialect.name == "postgresql":
            # Waits for those who did not see the new keys when they began to write, so that no entity is left out.
            connection.exec_driver_sql("LOCK TABLE search_key IN ACCESS EXCLUSIVE MODE")
        connection.execute(t.search_key.update().where(t.search_key.c.name.in_(left)).values(state="dropping"))
        for key in new:
            connection.execute(
                insert_for(connection)(t.search_key)
                .values(
                    name=key.name,
                    vr=key.vr,
                    level=key.level,
                    state="listing",
                    reached="",
                    done=0,
                    total=totals[key.level],
                )
                .on_conflict_do_nothing()
            )


def list_stored(engine: sa.Engine, *, at_once: int = 50) -> bool:
    """List some more of what is stored, or drop some more of what is not wanted; says whether there was anything."""
    with engine.connect() as connection:
        if not connection.execute(sa.select(t.search_key.c.name).where(t.search_key.c.state != "complete")).first():
            return False
    with begin_write(engine) as connection:
        busy = sa.select(t.search_key).where(t.search_key.c.state != "complete")
        rows = connection.execute(
            busy.order_by(t.search_key.c.level, t.search_key.c.reached, t.search_key.c.name).with_for_update(
                skip_locked=True
            )
        ).all()
        for row in rows:
            if row.state == "dropping":
                _drop_some(connection, row)
                return True
        if rows:
            level, reached = rows[0].level, rows[0].reached
            _list_some(connection, [row for row in rows if (row.level, row.reached) == (level, reached)], at_once)
    return bool(rows)


def _drop_some(connection: sa.Connection, row: sa.Row[Any]) -> None:
    table = LISTED[row.level]
    is_its = table.c.key.in_([row.name, WORDS + row.name])
    some = sa.select(table.c.entity).where(is_its).limit(_DROPPED_AT_ONCE)
    gone = connection.execute(table.delete().where(is_its, table.c.entity.in_(some)))
    if not gone.rowcount:
        connection.execute(t.search_key.delete().where(t.search_key.c.name == row.name))


def _list_some(connection: sa.Connection, rows: Sequence[sa.Row[Any]], at_once: int) -> None:
    """List the next entities for keys of one level that have come equally far."""
    level, reached = rows[0].level, rows[0].reached
    own, table = _ENTITIES[level], LISTED[level]
    keys = [listed_key(row.name, row.vr, level) for row in rows]
    names = [name for key in keys for name in (key.name, WORDS + key.name)]
    entities = (
        connection.execute(sa.select(own.c.id).where(own.c.id > reached).order_by(own.c.id).limit(at_once))
        .scalars()
        .all()
    )
    # What came since the key is known is listed already, and is listed once more.
    connection.execute(table.delete().where(table.c.entity.in_(entities), table.c.key.in_(names)))
    list_values(connection, level, read_headers(connection, level, entities), keys)
    connection.execute(
        t.search_key.update()
        .where(t.search_key.c.name.in_([key.name for key in keys]))
        .values(
            reached=max(entities, default=reached),
            done=t.search_key.c.done + len(entities),
            state="complete" if len(entities) < at_once else "listing",
        )
    )


def progress(connection: sa.Connection) -> list[Progress]:
    """How far the listing of what was stored before has come, by key."""
    rows = connection.execute(sa.select(t.search_key).where(t.search_key.c.state != "dropping"))
    return [
        Progress(
            name=row.name, done=row.total if row.state == "complete" else min(row.done, row.total), total=row.total
        )
        for row in rows
    ]


def incomplete(connection: sa.Connection, keys: Collection[Key]) -> set[str]:
    """The names of those of `keys` by which not everything stored can be found yet."""
    if not keys:
        return set()
    names = {key.name for key in keys}
    # As text: it is asked with every search by such a key, and takes longer to put together than to run.
    states = {name: state for name, state in connection.exec_driver_sql(_STATES)}  # noqa: C416
    return {name for name in names if states.get(name, "complete" if name in KEYS else "unknown") != "complete"}
