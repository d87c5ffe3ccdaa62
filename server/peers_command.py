"""The commands that call peers by DIMSE: `send` studies to one, `find` what it has, `get` studies from it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from readingroom.errors import Conflict, Invalid, NotAcceptable, NotFound
from server.console import Config, Data, Database, err, load_settings, out, print_table, show_progress

if TYPE_CHECKING:
    from pydicom import Dataset

    from server.associations.association import Context, Message, Proposal, Sink
    from server.associations.commands import CommandSet
    from server.associations.requesting import Retrieved
    from server.dimse.storing import Storing
    from server.settings import DimsePeer, Settings

_STUDY_FIND, _STUDY_MOVE, _STUDY_GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))
_MOST_CONTEXTS, _MOST_CLASSES = 128, 120
_SHOWN = 20
_SEVERAL_CLASSES = "SOPClassesInStudy"

Level = Literal["patient", "study", "series", "image"]
_WANTED: dict[str, tuple[str, ...]] = {
    "patient": ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
    "study": (
        *("StudyDate", "PatientID", "PatientName", "ModalitiesInStudy", "AccessionNumber", "StudyDescription"),
        *("NumberOfStudyRelatedInstances", "StudyInstanceUID"),
    ),
    "series": ("Modality", "SeriesNumber", "SeriesDescription", "NumberOfSeriesRelatedInstances", "SeriesInstanceUID"),
    "image": ("InstanceNumber", "SOPClassUID", "SOPInstanceUID"),
}
"""What is asked for at each level, and shown."""

Studies = Annotated[list[str], typer.Argument(metavar="STUDY...", help="Study Instance UIDs.")]


def send(
    studies: Studies,
    to: Annotated[str, typer.Option(help="Who is to have them: a name in [dimse.peers], or an AE title.")],
    series: Annotated[str | None, typer.Option(help="Only this Series Instance UID.")] = None,
    facility: Annotated[str | None, typer.Option(help="Whose studies, where several facilities have them.")] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Send studies of the archive to a peer (C-STORE).

    [bold]Examples[/]

      readingroom send 1.2.826.0.1.3680043.8.498.1 --to workstation

      readingroom send 1.2.826.0.1.3680043.8.498.1 --series 1.2.826.0.1.3680043.8.498.2 --to WS1

    The peer needs a host in \\[dimse.peers.NAME], or in the directory; where that is not of the public Internet, it has
    to be in private_networks. Objects go as they are stored, or losslessly in what the peer takes instead. Sent twice,
    nothing is there twice. The exit status is 1 if any object did not arrive.
    """
    settings = load_settings(config, data=data, database=database)
    from readingroom.model import Scope
    from server.archive import open_archive
    from server.codecs import Codecs
    from server.exporting import choose_instances
    from server.sending import Sender

    peer = _peer(settings, to)
    scope = Scope(facilities=frozenset({facility}) if facility else None)
    with open_archive(settings) as (engine, blobs):
        with engine.connect() as connection:
            instances = [one for study in studies for one in choose_instances(connection, scope, study, series)]
        codecs = Codecs(children=1, memory_bytes=settings.codec_memory_bytes, seconds=settings.codec_seconds)
        sender = Sender(engine=engine, blobs=blobs, codecs=codecs, settings=settings)
        failures: list[tuple[str, str]] = []
        rewritten = 0
        try:
            total = sum(one.size_bytes for one in instances)
            with show_progress(f"to {peer.ae}", total) as (advance, _):
                for sent in sender.send(peer, instances):
                    advance(sent.instance.size_bytes)
                    rewritten += sent.is_kept and sent.transfer_syntax != sent.instance.transfer_syntax
                    if not sent.is_kept:
                        failures.append((sent.instance.instance_uid, str(sent.outcome)))
        finally:
            codecs.close()
    also = f", {rewritten} of them in another transfer syntax than they are stored in" if rewritten else ""
    out.print(f"{escape(peer.ae)} has {len(instances) - len(failures)} of {len(instances)} objects{also}.")
    _end(failures)


def find(
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE...", help="What has to match: keywords of attributes, with * and ? in values."
        ),
    ] = None,
    *,
    at: Annotated[str, typer.Option(help="Whom to ask: a name in [dimse.peers], or an AE title.")],
    level: Annotated[Level, typer.Option(help="What to find.")] = "study",
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as DICOM JSON.")] = False,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Ask a peer what it has (C-FIND).

    [bold]Examples[/]

      readingroom find --at pacs PatientID=4711

      readingroom find --at pacs 'PatientName=DOE*' StudyDate=20261101- ModalitiesInStudy=CT

      readingroom find --at pacs --level series StudyInstanceUID=1.2.826.0.1.3680043.8.498.1 --json

    A key without a value (InstitutionName=) is shown as well. Patients are asked for in the patient root, all else in
    the study root.
    """
    settings = load_settings(config, data=data, database=database)
    from server.associations.association import Proposal
    from server.associations.requesting import call_as

    peer = _peer(settings, at)
    identifier = _identifier(level, keys or ())
    model = "1.2.840.10008.5.1.4.1.2.1.1" if level == "patient" else _STUDY_FIND
    with call_as(settings, peer, [Proposal(sop_class=model)]) as calling:
        found = list(calling.find(model, identifier, most=limit))
    if as_json:
        json.dump([one.to_json_dict() for one in found], sys.stdout, indent=2)
        print()
        return
    if not found:
        out.print("There are none.")
        return
    shown = list(dict.fromkeys((*_WANTED[level], *(key.partition("=")[0] for key in keys or ()))))
    print_table(shown, [[_text(one, key) for key in shown] for one in found])
    if len(found) == limit:
        err.print(f"These are the first {limit}; there may be more (--limit).")


def get(
    studies: Studies,
    from_: Annotated[str, typer.Option("--from", help="Who has them: a name in [dimse.peers], or an AE title.")],
    series: Annotated[str | None, typer.Option(help="Only this Series Instance UID.")] = None,
    by_move: Annotated[bool, typer.Option("--move", help="Have them sent (C-MOVE) without trying C-GET.")] = False,
    facility: Annotated[
        str | None, typer.Option(help="The facility that is to own them.", show_default="that of the peer")
    ] = None,
    data: Data = None,
    database: Database = None,
    config: Config = None,
) -> None:
    """Fetch studies from a peer into the archive (C-GET, else C-MOVE).

    [bold]Examples[/]

      readingroom get 1.2.826.0.1.3680043.8.498.1 --from pacs

    A peer that does no C-GET is asked to send to this server (C-MOVE): it has to know our AE title and our port, and
    'readingroom dimse' has to run. Fetched twice, nothing is there twice. The exit status is 1 if any object did not
    come.
    """
    settings = load_settings(config, data=data, database=database)
    from server.app import build_room
    from server.dimse.storing import Storing

    peer = _peer(settings, from_)
    owner = facility or peer.facility or settings.facility
    failures: list[tuple[str, str]] = []
    count = 0
    with build_room(settings) as room:
        storing = Storing(
            ingest=room.ingest, memory_bytes=settings.max_memory_bytes, most_bytes=settings.max_object_bytes
        )
        for study in studies:
            kept = _Keeping(storing=storing, facility=owner, source=peer.ae)
            try:
                last = None if by_move else _got(settings, peer, study, series, kept)
                if last is None:
                    last = _moved(settings, peer, study, series)
            finally:
                failures += kept.failures
            count += last.completed or 0
            if last.status != 0:
                failures.append((study, f"{peer.ae} answers {last}, {last.failed or 0} failed"))
            elif not last.completed and not last.warning:
                failures.append((study, f"{peer.ae} has nothing of it"))
    out.print(f"{count} objects have come from {escape(peer.ae)}.")
    _end(failures)


@dataclass(slots=True, kw_only=True)
class _Keeping:
    """Stores what a peer sends on the association that asks for it."""

    storing: Storing
    facility: str
    source: str
    failures: list[tuple[str, str]] = field(default_factory=list)

    def open(self, context: Context, command: CommandSet) -> Sink:
        """Where an object goes; what is no object is kept no longer than it takes to refuse it."""
        from server.associations.association import Memory
        from server.associations.commands import C_STORE, FIELD
        from server.associations.datasets import MOST_DATA_SET

        if command[FIELD] != C_STORE:
            return Memory(most=MOST_DATA_SET)
        return self.storing.open(context, command, self.source)

    def answer(self, message: Message) -> tuple[int, str]:
        """Success once it is stored."""
        from server.associations.commands import AFFECTED_INSTANCE, C_STORE, FIELD
        from server.dimse.service import UNRECOGNIZED_OPERATION

        if message.command[FIELD] != C_STORE or message.sink is None:
            return UNRECOGNIZED_OPERATION, "Nothing else is served here."
        status, comment = self.storing.store(
            message.context, message.command, message.sink, facility=self.facility, source=self.source
        )
        if status != 0 and status >> 12 != 0xB:
            self.failures.append((str(message.command.get(AFFECTED_INSTANCE, "")), comment))
        return status, comment


def _got(settings: Settings, peer: DimsePeer, study: str, series: str | None, kept: _Keeping) -> Retrieved | None:
    """Fetch a study by C-GET; the last answer, or None where the peer does not do that."""
    from server.associations.association import Proposal
    from server.associations.requesting import call_as

    classes = _classes_of(settings, peer, study)
    with call_as(settings, peer, [Proposal(sop_class=_STUDY_GET), *_taken(classes)]) as calling:
        if calling.context_of(_STUDY_GET) is None:
            err.print(f"{escape(peer.ae)} does no C-GET; it is asked to send to {settings.dimse.ae_title} (C-MOVE).")
            return None
        return _watched(f"from {peer.ae}", calling.get(_STUDY_GET, _of_study(study, series), kept))


def _moved(settings: Settings, peer: DimsePeer, study: str, series: str | None) -> Retrieved:
    """Have the peer send a study to this server; the last answer."""
    from server.associations.association import Proposal
    from server.associations.requesting import call_as

    if settings.dimse.port is None:
        raise Conflict(
            "Nobody here takes what a peer sends: set dimse.port, have 'readingroom dimse' run, and tell the peer "
            f"where {settings.dimse.ae_title} is."
        )
    with call_as(settings, peer, [Proposal(sop_class=_STUDY_MOVE)]) as calling:
        if calling.context_of(_STUDY_MOVE) is None:
            raise NotAcceptable(f"{peer.ae} does no C-MOVE either.")
        answers = calling.move(_STUDY_MOVE, _of_study(study, series), destination=settings.dimse.ae_title)
        return _watched(f"{peer.ae} sends", answers)


def _watched(label: str, answers: Iterator[Retrieved]) -> Retrieved:
    """The last of the answers, the others as progress."""
    with show_progress(label, 0, of_bytes=False) as (_, progress):
        for answer in answers:
            if answer.is_over:
                return answer
            done = (answer.completed or 0) + (answer.failed or 0) + (answer.warning or 0)
            progress.update(progress.task_ids[0], completed=done, total=done + (answer.remaining or 0))
    raise AssertionError("the last answer is over")


def _classes_of(settings: Settings, peer: DimsePeer, study: str) -> tuple[str, ...]:
    """The SOP classes that a peer says a study has; none where it does not say."""
    from server.associations.association import Proposal
    from server.associations.requesting import Unsuccessful, call_as

    with call_as(settings, peer, [Proposal(sop_class=_STUDY_FIND)]) as calling:
        if calling.context_of(_STUDY_FIND) is None:
            return ()
        identifier = _of_study(study, None)
        setattr(identifier, _SEVERAL_CLASSES, None)
        try:
            found = list(calling.find(_STUDY_FIND, identifier, most=1))
        except Unsuccessful:
            return ()
    values = found[0].get(_SEVERAL_CLASSES) if found else None
    return (values,) if isinstance(values, str) else tuple(map(str, values or ()))


def _taken(classes: Sequence[str]) -> list[Proposal]:
    """The contexts in which objects may come: each transfer syntax of a class in its own, as far as there is room."""
    from pynetdicom import StoragePresentationContexts

    from server.associations.association import Proposal
    from storage.part10 import EXPLICIT_LITTLE, IMPLICIT_LITTLE
    from storage.pixels import DECODABLE

    native = (EXPLICIT_LITTLE, IMPLICIT_LITTLE)
    video = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (102, 103, 107))
    others = tuple(sorted(DECODABLE - set(native))) + video
    if not classes or len(classes) > _MOST_CLASSES:
        every = [str(one.abstract_syntax) for one in StoragePresentationContexts][:_MOST_CLASSES]
        return [Proposal(sop_class=one, transfer_syntaxes=(*native, *others), has_stores=True) for one in every]
    room = (_MOST_CONTEXTS - 1) // len(classes) - 1
    alone, rest = others[: max(room - 1, 0)], others[max(room - 1, 0) :]
    groups = [native, *((one,) for one in alone), *([rest] if rest else [])]
    return [
        Proposal(sop_class=one, transfer_syntaxes=group, has_stores=True)
        for one in classes
        for group in groups[: room + 1]
    ]


def _identifier(level: Level, keys: Sequence[str]) -> Dataset:
    from pydicom import Dataset
    from pydicom.datadict import tag_for_keyword

    made = Dataset()
    made.QueryRetrieveLevel = level.upper()
    for keyword in _WANTED[level]:
        setattr(made, keyword, None)
    for key in keys:
        keyword, equals, value = key.partition("=")
        if not equals or tag_for_keyword(keyword) is None:
            raise Invalid(f"{key[:60]!r} is no KEY=VALUE with the keyword of an attribute, such as PatientID=4711.")
        try:
            setattr(made, keyword, value)
        except (ValueError, TypeError):
            raise Invalid(f"{keyword} cannot be {value[:60]!r}.") from None
    if not all(key.isascii() for key in keys):
        made.SpecificCharacterSet = "ISO_IR 192"
    return made


def _of_study(study: str, series: str | None) -> Dataset:
    from pydicom import Dataset

    made = Dataset()
    made.QueryRetrieveLevel = "SERIES" if series else "STUDY"
    made.StudyInstanceUID = study
    if series:
        made.SeriesInstanceUID = series
    return made


def _peer(settings: Settings, name: str) -> DimsePeer:
    """The peer of a name or an AE title, from the settings or, where there is a catalog, from the directory."""
    from server.archive import open_archive
    from server.peers import Peers
    from storage.catalog.directory import LatestDirectory

    peers = Peers(settings.dimse)
    found = peers.named(name)
    if found is None:
        with open_archive(settings) as (engine, _):
            peers = Peers(settings.dimse, LatestDirectory(engine))
            found = peers.named(name)
            known = sorted({*settings.dimse.peers, *(ae for ae, one in peers.known().items() if one.host)})
    if found is None:
        raise NotFound(f"No peer is called {name!r}. There are: {', '.join(known[:_SHOWN]) or 'none'}.")
    if found.host is None:
        raise Conflict(f"{found.ae} is never called: give it a host, such as dimse.peers.NAME.host.")
    return found


def _text(found: Dataset, keyword: str) -> str:
    value: Any = found.get(keyword)
    if value is None:
        return ""
    return str(value) if isinstance(value, str) or not hasattr(value, "__iter__") else "\\".join(map(str, value))


def _end(failures: Sequence[tuple[str, str]]) -> None:
    """Tell of what failed, and end with 1 where anything did."""
    for what, why in failures[:_SHOWN]:
        err.print(f"  {escape(what)}: {escape(why)}")
    if len(failures) > _SHOWN:
        err.print(f"  and {len(failures) - _SHOWN} more")
    if failures:
        raise typer.Exit(1)
