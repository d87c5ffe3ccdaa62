"""Asks another archive for the studies of a patient: QIDO-RS, and WADO-RS for what a search does not tell.

Only the configured roots are asked: no redirect is followed, and no address comes out of an answer. An answer is not
believed about whose study it is; `is_same_patient` looks at each.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from readingroom import Study

from .relevance import Shown, day_of
from .settings import Remote

type Dataset = Mapping[str, Any]

LARGEST_ANSWER = 8 << 20
MOST_STUDIES = 100
MOST_LOOKED_INTO = 10
"""Of so many studies, the newest, it is asked what they show."""
SECONDS = 30.0
"""For one archive in all; whatever is not known by then stays unknown."""
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")
_CS = re.compile(r"[A-Z0-9 _]{1,16}")
_PATIENT_ID, _ISSUER, _BIRTH_DATE, _SEX = "00100020", "00100021", "00100030", "00100040"
_STUDY_UID, _SERIES_UID, _INSTANCE_UID = "0020000D", "0020000E", "00080018"
_STUDY_DATE, _DESCRIPTION, _MODALITIES, _MODALITY, _BODY_PART = (
    "00080020",
    "00081030",
    "00080061",
    "00080060",
    "00180015",
)


class Unreachable(Exception):
    """An archive did not answer as one does; the message says how, without anything about the patient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One study of another archive."""

    study_uid: str
    study_date: str | None
    description: str | None
    shown: Shown


def can_ask(remote: Remote, study: Study) -> bool:
    """Whether an archive may know the patient of a study by the same number.

    Without a birth date nobody could tell whether it is the same patient.
    """
    return study.facility in remote.facilities and bool(study.patient_id) and bool(study.birth_date)


def is_same_patient(study: Study, answer: Dataset) -> bool:
    """Whether a study that an archive answers is of the patient of ours.

    Patient ID and birth date have to be there and equal; issuer and sex must not differ where both say them.
    """
    if _text(answer, _PATIENT_ID) != study.patient_id or _text(answer, _BIRTH_DATE) != study.birth_date:
        return False
    if not study.patient_id or not study.birth_date:
        return False
    issuer, sex = _text(answer, _ISSUER), _text(answer, _SEX)
    return not (issuer and study.issuer and issuer != study.issuer) and not (
        sex in ("M", "F") and study.sex in ("M", "F") and sex != study.sex
    )


def studies_of(remote: Remote, study: Study) -> tuple[Found, ...]:
    """The other studies of the patient in an archive, the newest first.

    Raises
    ------
    Unreachable
        It cannot be reached in time, refuses, or answers something else than DICOM JSON.
    """
    headers = {"Accept": "application/dicom+json", "Accept-Encoding": "identity"}
    if remote.token:
        headers["Authorization"] = f"Bearer {remote.token.get_secret_value()}"
    with httpx.Client(timeout=remote.timeout_seconds, headers=headers, trust_env=False) as client:
        archive = _Archive(remote, client, time.monotonic() + SECONDS)
        wanted = {
            "PatientID": study.patient_id or "",
            "includefield": [_ISSUER, _BIRTH_DATE, _SEX, _DESCRIPTION, _MODALITIES],
            "limit": MOST_STUDIES,
        }
        answers = [
            answer
            for answer in archive.search("/studies", wanted)
            if is_same_patient(study, answer)
            and _UID.fullmatch(_text(answer, _STUDY_UID))
            and _text(answer, _STUDY_UID) != study.study_uid
        ]
        answers.sort(key=lambda answer: _text(answer, _STUDY_DATE), reverse=True)
        return tuple(
            Found(
                study_uid=_text(answer, _STUDY_UID),
                study_date=_text(answer, _STUDY_DATE) if day_of(_text(answer, _STUDY_DATE)) else None,
                description=_text(answer, _DESCRIPTION)[:64] or None,
                shown=Shown(
                    body_parts=archive.body_parts(_text(answer, _STUDY_UID)) if number < MOST_LOOKED_INTO else (),
                    modalities=tuple(value for value in _texts(answer, _MODALITIES) if _CS.fullmatch(value)),
                    day=day_of(_text(answer, _STUDY_DATE)),
                ),
            )
            for number, answer in enumerate(answers)
        )


@dataclass(frozen=True, slots=True)
class _Archive:
    remote: Remote
    client: httpx.Client
    until: float

    def search(self, path: str, parameters: Mapping[str, Any]) -> Sequence[Dataset]:
        """What a search or the metadata of an object answers: data sets of DICOM JSON."""
        content = bytearray()
        try:
            with self.client.stream("GET", self.remote.root + path, params=dict(parameters)) as response:
                if response.status_code == 204:
                    return ()
                if response.status_code != 200:
                    raise Unreachable(f"{self.remote.name} answers {response.status_code}")
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > LARGEST_ANSWER:
                        raise Unreachable(f"{self.remote.name} answers more than {LARGEST_ANSWER >> 20} MiB")
                    if time.monotonic() > self.until:
                        raise Unreachable(f"{self.remote.name} takes more than {SECONDS:g} seconds")
        except httpx.HTTPError as error:
            raise Unreachable(f"{self.remote.name} does not answer: {type(error).__name__}") from None
        try:
            told = json.loads(content)
        except ValueError:
            raise Unreachable(f"{self.remote.name} answers no JSON") from None
        if not isinstance(told, list) or not all(isinstance(one, dict) for one in told):
            raise Unreachable(f"{self.remote.name} answers no array of data sets")
        return told

    def body_parts(self, study_uid: str) -> tuple[str, ...]:
        """Which parts of the body a study shows; none where the archive does not tell in time."""
        try:
            found = self.search(f"/studies/{study_uid}/series", {"includefield": _BODY_PART, "limit": 50})
            named = {_text(series, _BODY_PART) for series in found}
            if not named - {""}:
                named = set(self._looked_up(study_uid, found))
        except Unreachable:
            return ()
        return tuple(sorted(value for value in named if _CS.fullmatch(value)))

    def _looked_up(self, study_uid: str, found: Sequence[Dataset]) -> tuple[str, ...]:
        """From the metadata of one image: Body Part Examined is no key that every archive answers."""
        for series in found:
            series_uid = _text(series, _SERIES_UID)
            if (
                time.monotonic() > self.until
                or not _UID.fullmatch(series_uid)
                or _text(series, _MODALITY) in ("SR", "PR", "KO")
            ):
                continue
            path = f"/studies/{study_uid}/series/{series_uid}/instances"
            for instance in self.search(path, {"limit": 1})[:1]:
                instance_uid = _text(instance, _INSTANCE_UID)
                if _UID.fullmatch(instance_uid):
                    return tuple(_text(one, _BODY_PART) for one in self.search(f"{path}/{instance_uid}/metadata", {}))
        return ()


def _texts(dataset: Dataset, tag: str) -> tuple[str, ...]:
    element = dataset.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return tuple(value.strip() for value in values if isinstance(value, str)) if isinstance(values, list) else ()


def _text(dataset: Dataset, tag: str) -> str:
    return (*_texts(dataset, tag), "")[0]
