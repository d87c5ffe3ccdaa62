"""Asks other archives what they have of a patient, and fetches it: QIDO-RS and WADO-RS, or C-FIND and C-GET.

What an archive answers is believed neither about whose study it is, nor about which objects those are:
`is_same_patient` looks at each.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

from pydicom import Dataset
from pynetdicom.presentation import StoragePresentationContexts

from readingroom.errors import ReadingRoomError, RetryLater, TooLarge, Unreachable
from readingroom.model import Study
from readingroom.outbound import Network, ask, check, origin_of
from server.associations.association import MOST_CONTEXTS, Context, Memory, Message, Proposal, Sink
from server.associations.commands import AFFECTED_CLASS, AFFECTED_INSTANCE, C_STORE, FIELD, CommandSet
from server.associations.datasets import MOST_DATA_SET
from server.associations.requesting import call_as
from server.reports.channels.access import bearer, trust
from server.settings import ArchiveSettings, DimsePeer, Settings
from storage.part10 import new_file_meta

STUDY_FIND, STUDY_GET = "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.3"
MOST_STUDIES = 100
_LARGEST_ANSWER = 8 << 20
_LARGEST_OBJECT = 512 << 20
"""An object is held in memory until it is known to be of the patient."""
_SLOWEST = 1_000_000
"""Bytes in a second: so much longer an answer may take, the more may come."""
_MOST_INSTANCES = 20_000
_JSON = "application/dicom+json"
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_CS = re.compile(r"[A-Z0-9 _]{1,16}")
_PATIENT_ID, _ISSUER, _NAME, _BIRTH_DATE, _SEX = "00100020", "00100021", "00100010", "00100030", "00100040"
_STUDY_UID, _SERIES_UID, _INSTANCE_UID = "0020000D", "0020000E", "00080018"
_STUDY_DATE, _DESCRIPTION, _MODALITIES = "00080020", "00081030", "00080061"
_ASKED = (_ISSUER, _NAME, _BIRTH_DATE, _SEX, _STUDY_DATE, _DESCRIPTION, _MODALITIES)
_UNRECOGNIZED, _CANNOT_UNDERSTAND = 0x0211, 0xC000

type Header = Mapping[str, Any]
Keep = Callable[[bytes], None]
"""Takes the file of an object that was fetched; raises what keeps it from being kept."""


class RemoteArchive(Protocol):
    """Another archive."""

    def find(self, study: Study) -> list[Header]:
        """What it answers of the studies of that Patient ID, as it says it; raises `Unreachable` or `RetryLater`."""

    def fetch(self, study_uid: str, keep: Keep, *, has: Callable[[str], bool], most_bytes: int) -> None:
        """Fetch a study but for the instances that are here; raises as `find` does, and `TooLarge`."""


def is_same_patient(study: Study, told: Header, *, issuer: str = "") -> bool:
    """Whether something of another archive is of the patient of a study.

    Patient ID and birth date have to be there and equal, and the family names; sex must not differ where both say it.

    Parameters
    ----------
    issuer
        What the archive calls the issuer of our Patient IDs; empty where it calls it as we do.
    """
    if not study.patient_id or not study.birth_date or not study.patient_name:
        return False
    if text_of(told, _PATIENT_ID) != study.patient_id or text_of(told, _BIRTH_DATE) != study.birth_date:
        return False
    theirs, ours = text_of(told, _ISSUER), issuer or study.issuer or ""
    if theirs and ours and theirs != ours:
        return False
    sex = text_of(told, _SEX)
    if sex in ("M", "F") and study.sex in ("M", "F") and sex != study.sex:
        return False
    return _family(_name_of(told)) == _family(study.patient_name)


def candidate(study: Study, told: Header) -> Study | None:
    """A study of another archive, as plugins are shown it; None where it is none."""
    uid, date = text_of(told, _STUDY_UID), text_of(told, _STUDY_DATE)
    if not _UID.fullmatch(uid) or uid == study.study_uid or len(uid) > 64:
        return None
    return Study(
        study_uid=uid,
        facility=study.facility,
        patient=study.patient,
        patient_id=study.patient_id,
        issuer=study.issuer,
        birth_date=study.birth_date,
        sex=study.sex,
        study_date=date if re.fullmatch(r"\d{8}", date) else None,
        description=text_of(told, _DESCRIPTION)[:64] or None,
        modalities=tuple(value for value in _texts(told, _MODALITIES) if _CS.fullmatch(value)),
    )


# -- over HTTP ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WebRemote:
    """An archive with DICOMweb services; a `RemoteArchive`."""

    name: str
    settings: ArchiveSettings
    networks: Sequence[Network] = ()

    def find(self, study: Study) -> list[Header]:
        asked = {"PatientID": study.patient_id or "", "includefield": ",".join(_ASKED), "limit": str(MOST_STUDIES)}
        return self._search("/studies", asked)

    def fetch(self, study_uid: str, keep: Keep, *, has: Callable[[str], bool], most_bytes: int) -> None:
        left = most_bytes
        for told in self._search(f"/studies/{study_uid}/instances", {"limit": str(_MOST_INSTANCES)}):
            series, instance = text_of(told, _SERIES_UID), text_of(told, _INSTANCE_UID)
            if not _UID.fullmatch(series) or not _UID.fullmatch(instance) or has(instance):
                continue
            file = self._retrieve(
                f"/studies/{study_uid}/series/{series}/instances/{instance}", min(left, _LARGEST_OBJECT)
            )
            left -= len(file)
            keep(file)

    def _search(self, path: str, asked: Mapping[str, str]) -> list[Header]:
        _, body = self._get(f"{path}?{urlencode(asked)}", _JSON, _LARGEST_ANSWER)
        try:
            told = json.loads(body) if body else []
        except (ValueError, RecursionError):
            raise RetryLater(f"Archive {self.name} answers no JSON, or more than is read.") from None
        if not isinstance(told, list) or not all(isinstance(one, dict) for one in told):
            raise RetryLater(f"Archive {self.name} answers no array of data sets.")
        return told

    def _retrieve(self, path: str, most_bytes: int) -> bytes:
        accept = 'multipart/related; type="application/dicom"; transfer-syntax=*'
        headers, body = self._get(path, accept, most_bytes + 4096)
        boundary = re.search(r'boundary="?([^";]+)', headers.get("content-type", ""))
        begin = body.find(b"\r\n\r\n") + 4
        end = body.rfind(b"\r\n--" + boundary.group(1).encode()) if boundary else -1
        if len(body) >= most_bytes + 4096:
            raise TooLarge(f"An object of archive {self.name}, or its study, has more bytes than are fetched.")
        if begin < 4 or end < begin:
            raise RetryLater(f"Archive {self.name} answers half an object, or none.")
        return body[begin:end]

    def _get(self, path: str, accept: str, most: int) -> tuple[Mapping[str, str], bytes]:
        url = str(self.settings.url).rstrip("/")
        answer = ask(
            "GET",
            url + path,
            b"",
            {"Accept": accept, "Accept-Encoding": "identity", **bearer(self.settings.token)},
            networks=self.networks,
            seconds=self.settings.seconds + most / _SLOWEST,
            context=trust(self.settings.ca) if origin_of(url).scheme == "https" else None,
            most=most,
        )
        if 300 <= answer.status < 500 and answer.status not in (408, 425, 429):
            raise Unreachable(f"Archive {self.name} answers {answer.status}; are its url and its token right?")
        check(answer)
        return answer.headers, answer.body


# -- by DIMSE ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerRemote:
    """An application entity that answers C-FIND and C-GET of the study root (PS3.4 C.6.2); a `RemoteArchive`."""

    peer: DimsePeer
    settings: Settings

    def find(self, study: Study) -> list[Header]:
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.PatientID = "STUDY", study.patient_id
        for keyword in ("IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID"):
            setattr(asked, keyword, "")
        asked.StudyDate = asked.StudyDescription = asked.ModalitiesInStudy = ""
        with call_as(self.settings, self.peer, [Proposal(sop_class=STUDY_FIND)]) as calling:
            return [found.to_json_dict() for found in calling.find(STUDY_FIND, asked, most=MOST_STUDIES)]

    def fetch(self, study_uid: str, keep: Keep, *, has: Callable[[str], bool], most_bytes: int) -> None:
        asked = Dataset()
        asked.QueryRetrieveLevel, asked.StudyInstanceUID = "STUDY", study_uid
        classes = [str(context.abstract_syntax) for context in StoragePresentationContexts][: MOST_CONTEXTS - 1]
        proposals = [Proposal(sop_class=STUDY_GET)]
        proposals += [Proposal(sop_class=one, has_stores=True) for one in classes]
        taking = _Taking(keep=keep, left=most_bytes)
        with call_as(self.settings, self.peer, proposals) as calling:
            for told in calling.get(STUDY_GET, asked, taking):
                last = told
        if taking.error is not None:
            raise taking.error
        if last.status != 0:
            raise RetryLater(f"{self.peer.ae} answers {last} to C-GET.")


@dataclass(slots=True, kw_only=True)
class _Taking:
    """Takes what is sent in answer to a C-GET."""

    keep: Keep
    left: int
    error: ReadingRoomError | None = None

    def open(self, context: Context, command: CommandSet) -> Sink:
        return Memory(most=max(min(self.left, _LARGEST_OBJECT), 0) if command[FIELD] == C_STORE else MOST_DATA_SET)

    def answer(self, message: Message) -> tuple[int, str]:
        if message.command[FIELD] != C_STORE or not isinstance(message.sink, Memory):
            return _UNRECOGNIZED, "Nothing else is served here."
        data = bytes(message.sink.data)
        self.left -= len(data)
        sop_class, instance = (str(message.command.get(tag, "")) for tag in (AFFECTED_CLASS, AFFECTED_INSTANCE))
        try:
            self.keep(new_file_meta(sop_class, instance, message.context.transfer_syntax) + data)
        except ReadingRoomError as error:  # told to whoever asked for the study, once the peer has ended
            self.error = error
            return _CANNOT_UNDERSTAND, "It is not kept."
        return 0, ""


# -- what data sets say ------------------------------------------------------------------------------------------------


def text_of(told: Header, tag: str) -> str:
    """The first value of an attribute of DICOM JSON; empty where it has none."""
    return (*_texts(told, tag), "")[0]


def _texts(told: Header, tag: str) -> Iterator[str]:
    element = told.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return (one.strip() for one in values if isinstance(one, str)) if isinstance(values, list) else iter(())


def _name_of(told: Header) -> str:
    element = told.get(_NAME)
    values = element.get("Value") if isinstance(element, dict) else None
    name = values[0] if isinstance(values, list) and values else None
    known = (name.get(group) for group in ("Alphabetic", "Ideographic", "Phonetic")) if isinstance(name, dict) else ()
    return next((one for one in known if isinstance(one, str) and one), "")


def _family(name: str) -> str:
    """A family name as names are compared: without case, accents, spaces."""
    plain = unicodedata.normalize("NFKD", name.partition("^")[0]).casefold()
    return "".join(one for one in plain if one.isalnum())
