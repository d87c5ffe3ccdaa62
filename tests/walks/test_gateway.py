"""A department around a live server: the order comes by HL7, the modality finds it on its worklist, tells what it does,
stores its images and has them committed, all by TLS; the report goes back to whoever has ordered."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import httpx
import pytest
from pydicom import Dataset, FileDataset, dcmread
from pynetdicom import AE, evt
from pynetdicom.sop_class import ModalityPerformedProcedureStep, StorageCommitmentPushModel

from server.hl7.messages import segment
from tests.certificates import certificates
from tests.conftest import absent
from tests.hl7 import calling, message
from tests.receiver import Receiver, receiver
from tests.servers import Live, environment, free_port, live_server
from tests.synthetic import ct_series, new_uid
from tests.waiting import PATIENCE_SECONDS, expect

WELL_KNOWN = "1.2.840.10008.1.20.1.1"
pytestmark = pytest.mark.timeout(300)

STUDY, ACCESSION = new_uid(), "GW-4711"

DIRECTORY = """
[[facilities]]
id = "local"
name = "Local Hospital"
kind = "hospital"
state = "US-TX"
zone = "America/Chicago"
destinations = [{ id = "ris", channel = "hl7", address = "ADDRESS" }]

[[readers]]
id = "body"
name = "Bo Body"
zone = "America/Chicago"
licences = [{ state = "US-TX", number = "T1" }]
credentials = [{ facility = "local" }]
shifts = [{ starts = "00:00", ends = "00:00" }]
"""

ORDER = (
    segment("PID", {1: "1", 3: "GW77^^^LOCAL^MR", 5: "Müller^Jürgen", 7: "19601224", 8: "M"}),
    segment("PV1", {1: "1", 2: "O", 8: "1234^Referrer^Rita"}),
    segment("ORC", {1: "NW", 2: "P77^RIS", 3: f"{ACCESSION}^RIS", 5: "SC", 7: "^^^20261125093000^^S"}),
    segment(
        "OBR",
        {
            1: "1",
            2: "P77^RIS",
            3: f"{ACCESSION}^RIS",
            4: "CTABD^CT abdomen^L",
            16: "1234^Referrer^Rita",
            18: ACCESSION,
            19: "RP77",
            20: "SPS77",
            21: "CT1",
            24: "CT",
            27: "^^^20261125093000^^S",
            31: "^abdominal pain",
        },
    ),
    segment("ZDS", {1: f"{STUDY}^RIS^Application^DICOM"}),
)


class Modality:
    """A scanner, and what it is told of what it has stored."""

    def __init__(self, port: int, authority: Path) -> None:
        self.port = port
        self.authority = authority
        self.context = ssl.create_default_context(cafile=str(authority))
        self.committed: Queue[Dataset] = Queue()

    def run(self, program: str, *arguments: str) -> str:
        """One of dcmtk's tools over TLS."""
        found = shutil.which(program) or absent(f"{program} of dcmtk is not on this machine")
        command = [found, "+tla", "+cf", str(self.authority), "-aet", "CT1", "-aec", "READINGROOM", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    def associate(self, sop_class: str) -> Any:
        requester = AE(ae_title="CT1")
        requester.acse_timeout = requester.dimse_timeout = requester.network_timeout = 30
        requester.add_requested_context(sop_class)
        tls = (self.context, "127.0.0.1")
        association = requester.associate(
            *("127.0.0.1", self.port),
            ae_title="READINGROOM",
            tls_args=tls,
            evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.reported)],
        )
        assert association.is_established
        return association

    def reported(self, event: Any) -> tuple[int, None]:
        """N-EVENT-REPORT of a storage commitment."""
        self.committed.put(event.event_information)
        return 0, None


@pytest.fixture(scope="module")
def ris() -> Iterator[Receiver]:
    with receiver() as made:
        yield made


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {name: free_port() for name in ("dimse", "hl7")}


@pytest.fixture(scope="module")
def live(
    tmp_path_factory: pytest.TempPathFactory, ris: Receiver, ports: dict[str, int], authority: Path
) -> Iterator[Live]:
    home = tmp_path_factory.mktemp("gateway")
    (home / "directory.toml").write_text(DIRECTORY.replace("ADDRESS", ris.address))
    command = [sys.executable, "-m", "server.cli", "directory", "import", str(home / "directory.toml")]
    subprocess.run([*command, "--data", str(home / "data")], check=True, env=environment(), capture_output=True)
    settings = {
        "settle_seconds": 0.5,
        "plugins": "{}",
        "private_networks": '["127.0.0.0/8"]',
        "dimse__port": ports["dimse"],
        "dimse__certificate": authority.parent / "here.pem",
        "dimse__key": authority.parent / "here.key",
        "dimse__peers": json.dumps({"ct": {"ae": "CT1"}}),
        "hl7__port": ports["hl7"],
        "hl7__senders": json.dumps({"ris": {"application": "RIS"}}),
    }
    with live_server(home / "data", settings=settings) as live:
        yield live


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    certificates(folder)("here")
    return folder / "ca.pem"


@pytest.fixture(scope="module")
def modality(ports: dict[str, int], authority: Path) -> Modality:
    return Modality(ports["dimse"], authority)


@pytest.fixture(scope="module")
def http(live: Live) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.base, timeout=60) as client:
        yield client


def is_listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def worklist(modality: Modality, into: Path) -> list[FileDataset]:
    """What the modality worklist has for this scanner."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    step = "ScheduledProcedureStepSequence[0]"
    keys = [
        *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyInstanceUID"),
        *("RequestedProcedureID", "RequestedProcedureDescription", "ReferringPhysicianName"),
        *(f"{step}.ScheduledProcedureStepID", f"{step}.ScheduledStationAETitle", f"{step}.Modality=CT"),
        *(f"{step}.ScheduledProcedureStepStartDate", f"{step}.ScheduledProcedureStepStartTime"),
    ]
    wanted = [argument for key in keys for argument in ("-k", key)]
    modality.run("findscu", "-W", "-X", "-od", str(into), *wanted, "127.0.0.1", str(modality.port))
    return [dcmread(path, force=True) for path in sorted(into.glob("*.dcm"))]


@pytest.fixture(scope="module")
def scheduled(
    http: httpx.Client, modality: Modality, ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory
) -> FileDataset:
    """The item of the worklist, once the order was sent and acknowledged."""
    expect(lambda: [is_listening(ports[name]) for name in ("dimse", "hl7")], all, "up")
    with calling(ports["hl7"]) as caller:
        order = message(*ORDER, kind="ORM^O01^ORM_O01", id="GW1", f18="UNICODE UTF-8")
        assert caller.ask(order).code == "AA"
        assert caller.ask(order).code == "AA", "the same message once more"
    into = tmp_path_factory.mktemp("worklist") / "found"
    (item,) = expect(lambda: worklist(modality, into), bool, "an item of the worklist")
    return item


@pytest.fixture(scope="module")
def stored(http: httpx.Client, modality: Modality, scheduled: FileDataset, tmp_path_factory: Any) -> list[FileDataset]:
    """The images, after the modality has told that it has begun, stored them, and told that it has ended."""
    (step,) = scheduled.ScheduledProcedureStepSequence
    performed = Dataset()
    performed.PerformedProcedureStepStatus = "IN PROGRESS"
    performed.PerformedProcedureStepID = "PPS1"
    performed.PerformedStationAETitle = "CT1"
    performed.PerformedProcedureStepStartDate, performed.PerformedProcedureStepStartTime = "20261125", "093500"
    performed.Modality = "CT"
    performed.PatientName, performed.PatientID = scheduled.PatientName, scheduled.PatientID
    reference = Dataset()
    reference.StudyInstanceUID, reference.AccessionNumber = scheduled.StudyInstanceUID, scheduled.AccessionNumber
    reference.RequestedProcedureID = scheduled.RequestedProcedureID
    reference.ScheduledProcedureStepID = step.ScheduledProcedureStepID
    reference.ReferencedStudySequence = []
    performed.ScheduledStepAttributesSequence = [reference]
    performed.PerformedSeriesSequence = []
    uid = new_uid()
    association = modality.associate(ModalityPerformedProcedureStep)
    status, _ = association.send_n_create(performed, ModalityPerformedProcedureStep, uid)
    assert status.Status == 0, status
    about = {
        "StudyInstanceUID": scheduled.StudyInstanceUID,
        "PatientName": scheduled.PatientName,
        "PatientID": scheduled.PatientID,
        "PatientBirthDate": scheduled.PatientBirthDate,
        "PatientSex": scheduled.PatientSex,
        "AccessionNumber": scheduled.AccessionNumber,
        "BodyPartExamined": "ABDOMEN",
        "SpecificCharacterSet": "ISO_IR 192",
    }
    images = ct_series(3, 32, 32, **about)
    folder = tmp_path_factory.mktemp("images")
    for index, image in enumerate(images):
        image.save_as(folder / f"{index}.dcm", enforce_file_format=True)
    modality.run("storescu", "+sd", "127.0.0.1", str(modality.port), str(folder))
    ended = Dataset()
    ended.PerformedProcedureStepStatus = "COMPLETED"
    ended.PerformedProcedureStepEndDate, ended.PerformedProcedureStepEndTime = "20261125", "094000"
    series = Dataset()
    series.SeriesInstanceUID, series.ProtocolName = images[0].SeriesInstanceUID, "Abdomen"
    series.PerformingPhysicianName = series.OperatorsName = series.SeriesDescription = series.RetrieveAETitle = ""
    series.ReferencedImageSequence = [reference_to(one) for one in images]
    series.ReferencedNonImageCompositeSOPInstanceSequence = []
    ended.PerformedSeriesSequence = [series]
    status, _ = association.send_n_set(ended, ModalityPerformedProcedureStep, uid)
    assert status.Status == 0, status
    association.release()
    return images


def reading(http: httpx.Client) -> dict[str, Any]:
    """The item of the reading worklist that is about the study."""
    found = expect(
        lambda: [one for one in http.get("/worklist").json() if (one["study"] or "").endswith(f"/{STUDY}")],
        bool,
        "an item of the study",
    )
    assert len(found) == 1
    return found[0]


def reference_to(image: FileDataset) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return made


def test_the_order_stands_on_the_modality_worklist(scheduled: FileDataset) -> None:
    (step,) = scheduled.ScheduledProcedureStepSequence
    assert (scheduled.PatientName, scheduled.PatientID) == ("Müller^Jürgen", "GW77")
    assert (scheduled.AccessionNumber, scheduled.StudyInstanceUID) == (ACCESSION, STUDY)
    assert (scheduled.RequestedProcedureID, step.ScheduledProcedureStepID) == ("RP77", "SPS77")
    assert (step.ScheduledProcedureStepStartDate, step.Modality) == ("20261125", "CT")


def test_the_order_is_a_servicerequest_of_a_patient(http: httpx.Client, scheduled: FileDataset) -> None:
    assert scheduled.AccessionNumber
    found = http.get("/fhir/ServiceRequest", params={"identifier": ACCESSION, "_include": "ServiceRequest:subject"})
    kinds = {one["resource"]["resourceType"]: one["resource"] for one in found.json()["entry"]}
    assert kinds["ServiceRequest"]["status"] in ("active", "completed")
    assert kinds["Patient"]["name"][0]["family"] == "Müller"


def test_what_was_done_leaves_the_worklist(modality: Modality, stored: list[FileDataset], tmp_path: Path) -> None:
    assert stored
    assert worklist(modality, tmp_path / "later") == []


def test_the_images_are_the_ones_that_were_ordered(http: httpx.Client, stored: list[FileDataset]) -> None:
    (item,) = expect(
        lambda: [one for one in http.get("/worklist").json() if (one["study"] or "").endswith(f"/{STUDY}")],
        bool,
        "an item of the study",
    )
    assert (item["accession_number"], item["state"]) == (ACCESSION, "ready")
    open_ones = http.get("/reconciliation").json()
    assert [one for one in open_ones if one.get("study") == STUDY] == []


def test_they_are_committed(modality: Modality, stored: list[FileDataset]) -> None:
    asked = Dataset()
    asked.TransactionUID = new_uid()
    asked.ReferencedSOPSequence = [reference_to(one) for one in stored]
    association = modality.associate(StorageCommitmentPushModel)
    status, _ = association.send_n_action(asked, 1, StorageCommitmentPushModel, WELL_KNOWN)
    assert status.Status == 0, status
    told = modality.committed.get(timeout=PATIENCE_SECONDS)
    association.release()
    assert told.TransactionUID == asked.TransactionUID
    committed = {one.ReferencedSOPInstanceUID for one in told.ReferencedSOPSequence}
    assert committed == {one.SOPInstanceUID for one in stored}
    assert "FailedSOPSequence" not in told


def test_the_report_goes_back_to_who_has_ordered(http: httpx.Client, stored: list[FileDataset], ris: Receiver) -> None:
    (item,) = expect(
        lambda: [one for one in http.get("/worklist").json() if (one["study"] or "").endswith(f"/{STUDY}")],
        bool,
        "an item of the study",
    )
    claimed = http.post(f"/worklist/{item['workitem'].rsplit('/', 1)[1]}/claim", json={"reader": "body"})
    assert claimed.status_code == 200, claimed.text
    begun = http.post("/reports", json={"study": STUDY})
    texts = [{"name": "findings", "text": "The appendix is thick."}, {"name": "impression", "text": "Appendicitis."}]
    path = f"/reports/{begun.json()['id']}"
    told = {"sections": texts, "reader": "body"}
    written = http.put(path, json=told, headers={"If-Match": begun.headers["etag"]})
    assert written.status_code == 200, written.text
    signed = http.post(f"{path}/sign", json={"reader": "body"}, headers={"If-Match": written.headers["etag"]})
    assert signed.status_code == 200, signed.text
    result = expect(lambda: [*ris.messages], bool, "a result")[0]
    segments = {line[:3]: line.split("|") for line in result.split("\r")[::-1]}
    assert segments["MSH"][8].startswith("ORU^R01")
    assert segments["PID"][3].split("^")[0] == "GW77"
    assert segments["PID"][5].startswith("Müller^Jürgen^")
    assert (segments["OBR"][3].split("^")[0], segments["OBR"][25]) == (ACCESSION, "F")
    assert "Appendicitis." in result
