"""Writes the reference pages that are made from the code: ``python -m conformance.reference``, or ``make docs``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import time
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import orjson
import pynetdicom  # noqa: F401  adds to the names of pydicom's UIDs: so they are the same whatever else is loaded
from pydantic import BaseModel
from pydicom.datadict import dictionary_description

from conformance import hooks, orthanc, routing, triage
from conformance.statement import statement_page
from conformance.transcoding import transcoding_page
from server.dicomweb.openapi import openapi
from server.fhir.openapi import openapi as openapi_of_fhir
from server.settings import (
    ArchiveSettings,
    ClientSettings,
    DimsePeer,
    DimseSettings,
    EdgeHours,
    EdgeSettings,
    ForwardHours,
    ForwardRule,
    Hl7Sender,
    Hl7Settings,
    PeerReviewSettings,
    PluginSettings,
    ReconcilingSettings,
    Settings,
)
from storage.catalog.keys import KEYS, LEVELS, MATCHED_VRS, Key, Level
from storage.catalog.matching import MATCHING

PAGES = Path(__file__).parents[1] / "docs" / "reference"

_SETTINGS_HEAD = """\
# Settings

Made from `server/settings.py` by `make docs`.

A setting comes from the option of a command (`--data`), else from an environment variable
(`READINGROOM_DATA=/srv/images`), else from a TOML file: the one that `--config` or `READINGROOM_CONFIG` names, or
`readingroom.toml` in the working folder. `readingroom doctor` says what is wrong with them.

    # readingroom.toml
    data = "/srv/images"
    port = 8781
    allowed_hosts = ["images.example.org", "127.0.0.1"]

In a variable a list is written as JSON: `READINGROOM_ALLOWED_HOSTS='["images.example.org"]'`.

| setting | environment | default | meaning |
|---|---|---|---|
"""


_PLUGINS_HEAD = """\

## Plugins

A plugin runs where the settings have a table for it, which may be empty. Plugins are called in the order of their
tables. What the server reads there is below; the rest goes to the plugin, which says what is wrong with it. How one is
written: [the guide](../guide-plugins.md).

    [plugins.acme]
    network = true
    readable = ["/srv/models/acme"]
    threshold = 0.7        # the plugin's own

| setting | default | meaning |
|---|---|---|
"""

_CLIENTS_HEAD = """\

## Clients

A program that may have tokens has a table in the settings, or is registered with `readingroom clients add`:
[how](../how-to/fhir-access.md).

    [clients.ehr]
    jwks = "/etc/readingroom/ehr.jwks.json"
    scopes = "system/ImagingStudy.rs system/DiagnosticReport.rs"
    facilities = ["mercy"]

| setting | default | meaning |
|---|---|---|
"""
_DIMSE_HEAD = """\

## DIMSE

The table `[dimse]` says how modalities and archives reach this server: [how](../how-to/dimse.md).

| setting | default | meaning |
|---|---|---|
"""
_PEERS_HEAD = """\

A table `[dimse.peers.NAME]` is one of them:

| setting | default | meaning |
|---|---|---|
"""

_HL7_HEAD = """\

## HL7

The table `[hl7]` says how information systems send orders and patients: [how](../how-to/hl7.md).

| setting | default | meaning |
|---|---|---|
"""
_SENDERS_HEAD = """\

A table `[hl7.senders.NAME]` is one of those who send:

| setting | default | meaning |
|---|---|---|
"""
_FORWARD_HEAD = """\

## Sending on

Tables `[[forward]]` say which studies go on to others: [how](../how-to/forwarding.md).

| setting | default | meaning |
|---|---|---|
"""
_FORWARD_HOURS_HEAD = """\

A rule has tables `[[forward.hours]]` below it:

| setting | default | meaning |
|---|---|---|
"""
_ARCHIVES_HEAD = """\

Other archives have a table `[archives.NAME]` each; they are sent studies, and asked for [priors](../how-to/priors.md):

| setting | default | meaning |
|---|---|---|
"""

_EDGE_HEAD = """\

## Edge

The table `[edge]` is for `readingroom edge` at a site: [how](../how-to/edge.md).

| setting | default | meaning |
|---|---|---|
"""

_HOURS_HEAD = """\

Each table `[[edge.hours]]` is the rate at some hours:

| setting | default | meaning |
|---|---|---|
"""

_REVIEW_HEAD = """\

## Peer review

Who may review whom, and who sees that: [how](../how-to/peer-review.md).

    [peer_review]
    conflicts = [["ada", "bob"]]

| setting | default | meaning |
|---|---|---|
"""

_RECONCILING_HEAD = """\

## Studies and orders

How studies are matched to orders: [how](../how-to/reconcile.md).

    [reconciling]
    window_hours = 24
    link_single = false

| setting | default | meaning |
|---|---|---|
"""

_SEARCH_HEAD = """\
# Searching

Made from `storage/catalog/keys.py` and `storage/catalog/matching.py` by `make docs`.

`GET /studies`, `/series`, `/instances`, and the same below a study or series, answer what matches the query parameters
(PS3.18 8.3.4 and 10.6). A parameter is a keyword, a tag or a path of them, such as
`RequestAttributesSequence.00400009`; keys of a level match at the levels below it too. A parameter that is not matched
is ignored, and a `Warning: 299` names it.

- **Several values**, `A\\B`, for UI and CS with commas too, match any of them. With `multiplevaluematching=true` all of
  them have to be there, in attributes that may have several values (PS3.4 C.2.2.2.8).
- **No value**: `emptyvaluematching=true` lets `""` match what has no value (PS3.4 C.2.2.2.7). An attribute in a
  sequence has none if no item has one.
- **Wild cards** are `*` and `?`; case counts, but for names.
- **Dates and times**: `20240101-20240131`, `-20240131`, `0800-`. A range of dates and one of times of the same form are
  one range. With `TimezoneOffsetFromUTC` they are moments; studies that do not say their offset are taken to share it.
- **DT** is compared by the clock of each object; with an offset in the value, or `TimezoneOffsetFromUTC`, in UTC.
- **Sequences**: conditions on attributes of one sequence are of one item, at every depth (PS3.4 C.2.2.2.6). The whole
  sequence is answered.
- **Numbers** are compared as numbers: `+007` is `7`, `1.50` is `1.5`; FL to 6 digits, DS and FD to 14.
- **Names** are compared without case, accents and trailing delimiters; a value without `=` matches any component group.
- **Long texts**: a value of more than 512 characters is not found.

With `fuzzymatching=true` a name matches if each word that is asked for begins one of its words, or sounds like one, in
whatever component and order: `hans mueller` finds `Müller^Hans`. Sounds are those of Metaphone, after `y` became `i`,
for words of Latin letters with at least two consonants; other scripts match by their words. Compounds match as one word
and as several (`O'Brien`). A value with wild cards finds what it finds literally as well.

Answers are ordered by study date, the newest first, or by arrival; below a study by series and instance number. `limit`
and `offset` cut them; a cut answer has a `Warning`, and a `Link` to the next page. That link goes by Record Key
(0008,041B): `includefield=RecordKey` shows it in each row, and `PriorRecordKey=` begins behind it, so that pages stay
what they are while objects arrive. `includefield=all` adds all optional attributes that are kept for a level.

## More attributes

The setting `search_attributes` makes other attributes searchable, and answers may include them:

    search_attributes = [
        "ConvolutionKernel",
        {attribute = "AnatomicRegionSequence.CodeValue", level = "series"},
        {attribute = "0009xx01", creator = "ACME 1.1", vr = "LO", level = "study"},
    ]

`level` is where the attribute belongs, and that of a study or series is taken from its first object; `vr` is needed for
private attributes that no dictionary has. A private attribute is asked for with its creator, in any block:
`00091001=blue&00090010=ACME%201.1`. What comes in is listed at once. What is stored already is listed in the
background: `readingroom doctor` and the metric `readingroom_search_listing_remaining` say how far that is, and until it
is done searches by the attribute carry a `Warning`. An attribute that is taken out of the setting loses its list.

"""


def search_page() -> str:
    """The reference of searching, with every key."""
    vrs = ", ".join(sorted(MATCHED_VRS))
    return f"{_SEARCH_HEAD}These VRs can be made searchable: {vrs}.\n" + "".join(map(_keys_of, LEVELS))


def _keys_of(level: Level) -> str:
    head = f"\n## Keys of the {level}\n\n| tag | attribute | VR | matching |\n|---|---|---|---|\n"
    keys = sorted((key for key in KEYS.values() if key.level == level), key=lambda key: key.name)
    return head + "".join(f"| {key.name} | {_title(key)} | {key.vr} | {_matching(key)} |\n" for key in keys)


def _title(key: Key) -> str:
    return " > ".join(dictionary_description(int(tag, 16)) for tag in key.path)


def _matching(key: Key) -> str:
    kinds = [*MATCHING[key.vr]]
    if key.is_multiple and key.vr != "UI":
        kinds.append("multiple values")
    return ", ".join(kinds)


def settings_page() -> str:
    """The reference of every setting, as Markdown."""
    settings = "".join(
        f"| `{name}` | `READINGROOM_{name.upper()}` | {_default(field.default)} | {_meaning(field)} |\n"
        for name, field in Settings.model_fields.items()
    )
    plugins = "".join(
        f"| `{name}` | {_default(field.default)} | {_meaning(field)} |\n"
        for name, field in PluginSettings.model_fields.items()
    )
    clients = _rows(ClientSettings)
    told = (_SETTINGS_HEAD, settings, _PLUGINS_HEAD, plugins, _CLIENTS_HEAD, clients)
    dimse = (_DIMSE_HEAD, _rows(DimseSettings), _PEERS_HEAD, _rows(DimsePeer))
    hl7 = (_HL7_HEAD, _rows(Hl7Settings), _SENDERS_HEAD, _rows(Hl7Sender))
    forward = (_FORWARD_HEAD, _rows(ForwardRule), _FORWARD_HOURS_HEAD, _rows(ForwardHours))
    archives = (_ARCHIVES_HEAD, _rows(ArchiveSettings))
    edge = (_EDGE_HEAD, _rows(EdgeSettings), _HOURS_HEAD, _rows(EdgeHours))
    review = (_REVIEW_HEAD, _rows(PeerReviewSettings))
    reconciling = (_RECONCILING_HEAD, _rows(ReconcilingSettings))
    return "".join((*told, *dimse, *forward, *archives, *hl7, *edge, *reconciling, *review))


def _rows(of: type[BaseModel]) -> str:
    return "".join(
        f"| `{name}` | {'required' if field.is_required() else _default(field.default)} | {field.description} |\n"
        for name, field in of.model_fields.items()
    )


def _default(value: Any) -> str:
    match value:
        case None | ():
            return "none"
        case BaseModel():
            return "see below"
        case dict() if not value:
            return "none"
        case bool():
            return f"`{str(value).lower()}`"
        case tuple():
            return ", ".join(f"`{item}`" for item in value)
        case time():
            return f"`{value:%H:%M}`"
        case int() if value >= 1 << 20 and value % (1 << 20) == 0:
            size = f"{value >> 30} GiB" if value % (1 << 30) == 0 else f"{value >> 20} MiB"
            return f"`{value}` ({size})"
        case _:
            return f"`{value}`"


def _meaning(field: Any) -> str:
    bounds = [
        f"{sign} {getattr(bound, name)}"
        for bound in field.metadata
        for name, sign in (("ge", "at least"), ("gt", "more than"), ("le", "at most"))
        if getattr(bound, name, None) is not None
    ]
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    told = [field.description, *bounds, f"one of {', '.join(f'`{choice}`' for choice in choices)}" if choices else ""]
    return "; ".join(filter(None, told))


def openapi_document() -> str:
    """The OpenAPI document of the DICOMweb services, as it is served but for its server."""
    document = orjson.dumps(openapi("http://127.0.0.1:8780/dicomweb"), option=orjson.OPT_INDENT_2)
    return document.decode() + "\n"


def fhir_openapi_document() -> str:
    """The OpenAPI document of the FHIR service, as it is served but for its server."""
    return orjson.dumps(openapi_of_fhir("http://127.0.0.1:8780/fhir"), option=orjson.OPT_INDENT_2).decode() + "\n"


PAGE_MAKERS: Mapping[str, Callable[[], str]] = {
    "ai-triage.md": triage.page,
    "conformance-orthanc.md": orthanc.page,
    "conformance-statement.md": statement_page,
    "hooks.md": hooks.page,
    "openapi-fhir.json": fhir_openapi_document,
    "openapi.json": openapi_document,
    "routing.md": routing.page,
    "search.md": search_page,
    "settings.md": settings_page,
    "transcoding.md": transcoding_page,
}
"""What makes each page of the reference that is made from the code."""


def main() -> None:
    """Write the pages."""
    PAGES.mkdir(parents=True, exist_ok=True)
    if not triage.is_fresh():
        triage.measure()  # a minute
    for name, make in PAGE_MAKERS.items():
        (PAGES / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
