"""The samples on the server under test: stored at the start, looked at by the checks, removed at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from typing import Any

from conformance.dicomweb.checks import Fault, NotApplicable
from conformance.dicomweb.multipart import write_multipart
from conformance.dicomweb.peer import DICOM_PARTS, JSON, XML_PARTS, Answer, Peer
from conformance.dicomweb.samples import Sample, Samples
from conformance.dicomweb.watching import Story, watch
from conformance.dicomweb.worklist import Worklist

STORE_TYPE = f"{DICOM_PARTS}; boundary=conformance"
_REFERENCED, _INSTANCE = "00081199", "00081155"


class Cast:
    """What the checks act on.

    Parameters
    ----------
    can_store
        Whether the samples, and what single checks make, may be stored; a server that only reads has to hold the
        samples already.
    """

    def __init__(self, peer: Peer, samples: Samples, *, can_store: bool = True) -> None:
        self.peer = peer
        self.samples = samples
        self.can_store = can_store
        self.worklist = Worklist(peer, samples, can_store=can_store)
        self._story: Story | Fault | None = None
        self.answers: dict[str, Answer] = {}
        self._held: set[str] | None = None
        self._offers: dict[str, str] = {}
        self._metadata: dict[str, dict[str, Any]] = {}
        self._numbers = count(1)
        self._studies = dict.fromkeys(sample.study_uid for sample in samples)
        self._palettes: dict[str, None] = {}

    def store_samples(self) -> None:
        """Store the samples, each study with a request of its own; or see which of them are there."""
        if self._held is not None:
            return
        self._held = set()
        for study_uid in dict.fromkeys(sample.study_uid for sample in self.samples):
            samples = [sample for sample in self.samples if sample.study_uid == study_uid]
            if self.can_store:
                with suppress(Fault):
                    self.answers[study_uid] = store(self.peer, samples)
            for sample in samples:
                with suppress(Fault):
                    if self.peer.get(f"{sample.path}/metadata", accept=JSON).status == 200:
                        self._held.add(sample.name)

    def seen_by(self, peer: Peer) -> Cast:
        """The same samples through another connection, with nothing known of what the server offers."""
        self.store_samples()
        other = Cast(peer, self.samples, can_store=self.can_store)
        other._held = self._held
        other._numbers = self._numbers
        other._palettes = self._palettes
        return other

    def answer_to(self, name: str) -> Answer:
        """The answer to the request that stored the study of a sample."""
        self.store_samples()
        study_uid = self.samples[name].study_uid
        if not self.can_store:
            raise NotApplicable("nothing was stored here (--no-store)")
        if study_uid not in self.answers:
            self.answers[study_uid] = store(self.peer, [one for one in self.samples if one.study_uid == study_uid])
        return self.answers[study_uid]

    def __getitem__(self, name: str) -> Sample:
        """A sample that is there; `NotApplicable` where the server does not hold it."""
        self.store_samples()
        if name not in (self._held or ()):
            raise NotApplicable(f"the server does not hold the sample {name!r}")
        return self.samples[name]

    def held(self) -> list[Sample]:
        """All the samples that are there."""
        self.store_samples()
        found = [sample for sample in self.samples if sample.name in (self._held or ())]
        if not found:
            raise NotApplicable("the server holds none of the samples")
        return found

    def metadata(self, name: str) -> dict[str, Any]:
        """The metadata of a sample as DICOM JSON, asked for once."""
        if name not in self._metadata:
            rows = self.peer.get(f"{self[name].path}/metadata", accept=JSON).expect(200).rows()
            if len(rows) != 1:
                raise Fault(f"the metadata of one instance has {len(rows)} data sets")
            self._metadata[name] = rows[0]
        return self._metadata[name]

    def new(self, *, study: str = "", letter: str = "N", **attributes: Any) -> Sample:
        """An image that nobody stored yet, to be removed at the end; in a study of its own unless one is named."""
        if not self.can_store:
            raise NotApplicable("nothing may be stored here (--no-store)")
        sample = self.samples.new(f"new{next(self._numbers)}", study=study, letter=letter, **attributes)
        if sample.study_uid:  # a check may want one without
            self._studies[sample.study_uid] = None
        return sample

    def stored(self, **attributes: Any) -> Sample:
        """An image that a check has for itself, stored."""
        sample = self.new(**attributes)
        store(self.peer, [sample]).expect(200)
        return sample

    def palette(self, name: str) -> Sample:
        """A color palette that nobody stored yet, to be removed at the end."""
        if not self.can_store:
            raise NotApplicable("nothing may be stored here (--no-store)")
        sample = self.samples.palette(name)
        self._palettes[sample.uid] = None
        return sample

    def story(self) -> Story:
        """What an AE heard of work items, played once; raises the `Fault` that ended it."""
        if self._story is None:
            try:
                self._story = watch(self.worklist)
            except Fault as fault:
                self._story = fault
        if isinstance(self._story, Fault):
            raise self._story
        return self._story

    def require(self, feature: str) -> None:
        """Raise `NotApplicable` where the server does not offer an optional feature."""
        if feature and (why := self.missing(feature)):
            raise NotApplicable(why)

    def missing(self, feature: str) -> str:
        """Why a feature is not offered here; empty where it is."""
        if feature not in self._offers:
            try:
                answer = _PROBES[feature](self)
            except Fault as fault:
                self._offers[feature] = f"{feature} is not offered: {fault}"
            else:
                is_offered = answer.status < 400
                self._offers[feature] = (
                    "" if is_offered else f"{feature} is not offered: {answer.named} answers {answer.status}"
                )
        return self._offers[feature]

    def clean(self) -> list[str]:
        """Delete what the run has stored, and end its work items; gives the UIDs of what is still there, or open."""
        if not self.can_store:
            return []
        left = self.worklist.clean()
        for study_uid in self._studies:
            try:
                self.peer.ask("DELETE", f"/studies/{study_uid}")
                there = self.peer.search("/studies", StudyInstanceUID=study_uid)
                if there.status == 200 and there.rows():
                    left.append(study_uid)
            except Fault:
                left.append(study_uid)
        for uid in self._palettes:
            path = f"/color-palettes/{uid}"
            try:
                self.peer.ask("DELETE", path)
                if self.peer.get(path, accept=JSON).status == 200:
                    left.append(uid)
            except Fault:
                left.append(uid)
        return left


def store(
    peer: Peer, samples: Iterable[Sample], path: str = "/studies", *, accept: str = JSON, garbage: bytes = b""
) -> Answer:
    """Store samples as DICOM files with one request; `garbage` goes as one more part."""
    parts = [("application/dicom", sample.file) for sample in samples]
    if garbage:
        parts.append(("application/dicom", garbage))
    return peer.post(path, STORE_TYPE, write_multipart(parts), accept=accept)


def stored_uids(answer: Answer) -> list[str]:
    """The SOP Instance UIDs that an answer of the Store transaction says were stored."""
    module = answer.json()
    if not isinstance(module, dict):
        raise Fault(f"{answer.named} answers JSON that is no object")
    return [uid for item in module.get(_REFERENCED, {}).get("Value", []) for uid in item[_INSTANCE]["Value"]]


def _deletable(cast: Cast) -> Answer:
    return cast.peer.ask("DELETE", cast.stored().study)


def _uri(cast: Cast) -> Answer:
    """Find where WADO-URI is answered: where the caller said, below the root, or beside it."""
    peer, sample = cast.peer, cast["ct1"]
    places = [peer.wado_uri] if peer.wado_uri else [f"{peer.base}/wado", f"{peer.base.rpartition('/')[0]}/wado"]
    answers = []
    for place in places:
        peer.wado_uri = place
        answers.append(peer.get(place, uri_query(sample)))
        if answers[-1].status < 400:
            break
    return answers[-1]


def uri_query(sample: Sample, **parameters: str) -> dict[str, str]:
    """The query of a WADO-URI request (PS3.18 9.1.2)."""
    named = {"studyUID": sample.study_uid, "seriesUID": sample.series_uid, "objectUID": sample.uid}
    return {"requestType": "WADO", **named, **parameters}


_PROBES: dict[str, Callable[[Cast], Answer]] = {
    "delete": _deletable,
    "rendered": lambda cast: cast.peer.get(f"{cast['ct1'].path}/rendered", accept="image/jpeg"),
    "thumbnail": lambda cast: cast.peer.get(f"{cast['ct1'].path}/thumbnail", accept="image/jpeg"),
    "xml": lambda cast: cast.peer.get(f"{cast['ct1'].path}/metadata", accept=XML_PARTS),
    "search in xml": lambda cast: cast.peer.search(
        "/studies", accept=XML_PARTS, StudyInstanceUID=cast["ct1"].study_uid
    ),
    "zip": lambda cast: cast.peer.get(cast["ct1"].study, accept="application/zip"),
    "bulkdata": lambda cast: cast.peer.get(f"{cast['ct1'].path}/bulkdata", accept='multipart/related; type="*/*"'),
    "pixeldata": lambda cast: cast.peer.get(f"{cast['ct1'].path}/pixeldata", accept='multipart/related; type="*/*"'),
    "capabilities": lambda cast: cast.peer.ask("OPTIONS", "/", accept="application/vnd.sun.wadl+xml, */*;q=0.1"),
    "non-patient": lambda cast: cast.peer.get("/color-palettes", accept=JSON),
    "worklist": lambda cast: cast.peer.get("/workitems", "limit=1", accept=JSON),
    "uri": _uri,
    "store": lambda cast: cast.answer_to("ct1"),
}
"""How to see whether a server offers what the standard leaves to it."""
