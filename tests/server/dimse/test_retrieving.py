"""C-MOVE and C-GET: what is wanted comes as it is stored, or as the peer can take it, and all of it is told."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, FileDataset, dcmread
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless
from pynetdicom import AE, build_role, evt
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)

from readingroom.errors import Unreachable
from readingroom.model import LOCAL_OPERATOR, Scope
from server.correcting import correct
from server.dimse.retrieving import PATIENT_GET, PATIENT_MOVE, STUDY_GET, STUDY_MOVE, Unfit, read_wanted
from server.dimse.server import DimseServer
from server.removing import remove
from server.room import Room
from server.sending import Sender, best_to_send
from server.settings import DimsePeer, Settings
from storage.catalog.corrections import Target
from storage.catalog.find import StoredInstance, Wanted, list_wanted
from storage.changes import read_changes
from tests.conftest import absent
from tests.dimse import CINE, CT, LOOPBACK, NATIVE, Taker, data_set, identifier, jpeg_2000, keep, receiving
from tests.dimse import serving as serving_peers
from tests.retrieve import in_syntax
from tests.servers import free_port, running
from tests.synthetic import cine, ct_series, new_uid, part10, text_report


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"private_networks": LOOPBACK})


def serving(room: Room, *receivers: DimsePeer) -> AbstractContextManager[DimseServer]:
    """The server of `room`, which READER and others may call, and which knows these receivers."""
    mute, hub = DimsePeer(ae="MUTE", may_move=False), DimsePeer(ae="HUB", facility="hub", sees_all=True)
    return serving_peers(room, DimsePeer(ae="READER"), mute, hub, *receivers)


def associate(server: DimseServer, *, ae: str = "READER", ext_neg: list[Any] | None = None, **kwargs: Any) -> Any:
    entity = AE(ae_title=ae)
    entity.acse_timeout = entity.network_timeout = 20
    entity.dimse_timeout = kwargs.pop("patience", 20)
    for sop_class in (PATIENT_MOVE, STUDY_MOVE, PATIENT_GET, STUDY_GET):
        entity.add_requested_context(sop_class)
    for sop_class, *syntaxes in kwargs.pop("takes", ()):
        entity.add_requested_context(sop_class, syntaxes)
    return entity.associate("127.0.0.1", server.port, ae_title="READINGROOM", ext_neg=ext_neg, **kwargs)


def move(
    server: DimseServer, wanted: Dataset, *, to: str = "STORE", model: str = STUDY_MOVE, ae: str = "READER"
) -> Any:
    """All that is answered to a C-MOVE."""
    association = associate(server, ae=ae)
    assert association.is_established
    answers = list(association.send_c_move(wanted, to, model, msg_id=7))
    association.release()
    return answers


def counts(status: Dataset) -> tuple[int, int, int, int]:
    """Status, and how many sub-operations are completed, failed, and had a warning."""
    return (
        status.Status,
        status.NumberOfCompletedSuboperations,
        status.NumberOfFailedSuboperations,
        status.NumberOfWarningSuboperations,
    )


# -- C-MOVE ------------------------------------------------------------------------------------------------------------


def test_a_study_goes_to_its_destination_as_it_is_stored_and_each_instance_is_told(room: Room) -> None:
    slices = ct_series(3)
    keep(room, *slices)
    with receiving() as there, serving(room, there.peer) as server:
        answers = move(server, identifier("STUDY", StudyInstanceUID=slices[0].StudyInstanceUID))
    assert there.uids == [one.SOPInstanceUID for one in slices]
    assert [data for _, _, data in there.came] == [data_set(part10(one)) for one in slices]
    assert there.originators == {("READER", 7)}
    assert [status.Status for status, _ in answers] == [0xFF00] * 3 + [0]
    assert [status.NumberOfRemainingSuboperations for status, _ in answers[:-1]] == [2, 1, 0]
    assert counts(answers[-1][0]) == (0, 3, 0, 0)


def test_patients_series_and_instances_are_moved_too(room: Room) -> None:
    first, second = ct_series(2), ct_series(2, PatientID="P2")
    keep(room, *first, *second)
    one, other = first[0], second[1]
    series = {"StudyInstanceUID": one.StudyInstanceUID, "SeriesInstanceUID": one.SeriesInstanceUID}
    with receiving() as there, serving(room, there.peer) as server:
        for wanted, model in (
            (identifier("PATIENT", PatientID="P2"), PATIENT_MOVE),
            (identifier("SERIES", **series), STUDY_MOVE),
            (identifier("IMAGE", **series, SOPInstanceUID=[one.SOPInstanceUID]), STUDY_MOVE),
            (identifier("IMAGE", SOPInstanceUID=[one.SOPInstanceUID, other.SOPInstanceUID]), STUDY_MOVE),
            (identifier("STUDY", PatientID="P2", StudyInstanceUID=one.StudyInstanceUID), PATIENT_MOVE),
        ):
            before = len(there.came)
            answers = move(server, wanted, model=model)
            assert answers[-1][0].Status == 0
            assert answers[-1][0].NumberOfCompletedSuboperations == len(there.came) - before
    a, b = ([each.SOPInstanceUID for each in slices] for slices in (first, second))
    assert there.uids == [*b, *a, a[0], *sorted((a[0], b[1]), key=there.uids[5:].index)]


def test_compressed_pixels_stay_so_where_the_peer_takes_them_and_are_decompressed_where_not(room: Room) -> None:
    movie = cine(3)
    file = jpeg_2000(movie)
    keep(room, file)
    wanted = identifier("STUDY", StudyInstanceUID=movie.StudyInstanceUID)
    with (
        receiving(JPEG2000Lossless, *NATIVE, ae="ALL") as modern,
        receiving(ExplicitVRLittleEndian, ae="EXPLICIT") as usual,
        receiving(ImplicitVRLittleEndian, ae="IMPLICIT") as old,
        serving(room, modern.peer, usual.peer, old.peer) as server,
    ):
        for there in (modern, usual, old):
            assert counts(move(server, wanted, to=there.peer.ae)[-1][0]) == (0, 1, 0, 0)
    assert modern.came == [(movie.SOPInstanceUID, JPEG2000Lossless, data_set(file))]
    assert [usual.came[0][1], old.came[0][1]] == [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
    for there in (usual, old):
        assert (there.read().pixel_array == movie.pixel_array).all()
        assert there.read().PatientName == movie.PatientName


@pytest.mark.parametrize("stored", [ImplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("taken", NATIVE)
def test_any_native_object_goes_to_who_takes_one_native_syntax(room: Room, stored: str, taken: str) -> None:
    (slice_,) = ct_series(1)
    pixels = slice_.pixel_array
    keep(room, part10(in_syntax(slice_, stored)))
    with receiving(taken) as there, serving(room, there.peer) as server:
        wanted = identifier("STUDY", StudyInstanceUID=slice_.StudyInstanceUID)
        assert counts(move(server, wanted)[-1][0]) == (0, 1, 0, 0)
    assert there.came[0][1] == taken
    assert (there.read().pixel_array == pixels).all()


@pytest.mark.parametrize("taken", NATIVE)
def test_what_has_been_corrected_goes_as_it_is_shown(room: Room, taken: str) -> None:
    slices = ct_series(2)
    keep(room, *slices)
    change = read_changes(
        {
            "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Müller^Rita"}]},
            "00100020": {"vr": "LO", "Value": ["R2"]},
        },
        None,
    )
    target = Target(study_uid=slices[0].StudyInstanceUID)
    correct(room.engine, room.blobs, room.clock, Scope(), target, change, actor="a", reason="Another patient")
    with receiving(taken) as there, serving(room, there.peer) as server:
        former = move(server, identifier("PATIENT", PatientID=slices[0].PatientID), model=PATIENT_MOVE)
        assert counts(former[-1][0]) == (0, 0, 0, 0)
        shown = move(server, identifier("PATIENT", PatientID="R2"), model=PATIENT_MOVE)
        assert counts(shown[-1][0]) == (0, 2, 0, 0)
    assert [str(there.read(number).PatientName) for number in (0, 1)] == ["Müller^Rita"] * 2
    assert (there.read().pixel_array == slices[0].pixel_array).all()


def test_what_fails_is_listed_and_the_rest_arrives(room: Room) -> None:
    slices = ct_series(3)
    report = text_report(StudyInstanceUID=slices[0].StudyInstanceUID, SeriesNumber=9)
    keep(room, *slices, report)
    with receiving() as there, serving(room, there.peer) as server:
        there.answers = lambda number: {1: 0xB000, 2: 0xA700}.get(number, 0)
        *_, (last, failed) = move(server, identifier("STUDY", StudyInstanceUID=slices[0].StudyInstanceUID))
        assert counts(last) == (0xB000, 1, 2, 1)
        assert list(failed.FailedSOPInstanceUIDList) == [slices[1].SOPInstanceUID, report.SOPInstanceUID]
        there.answers = lambda number: 0xA700
        *_, (last, failed) = move(server, identifier("IMAGE", SOPInstanceUID=slices[0].SOPInstanceUID))
    assert counts(last) == (0xA702, 0, 1, 0)
    assert failed.FailedSOPInstanceUIDList == slices[0].SOPInstanceUID


def test_what_was_removed_does_not_go(room: Room) -> None:
    first, second = ct_series(1), ct_series(1, PatientID="P5")
    second[0].StudyInstanceUID = first[0].StudyInstanceUID
    keep(room, *first, *second)
    uids = (first[0].StudyInstanceUID, first[0].SeriesInstanceUID)
    remove(room.engine, room.blobs, room.clock, LOCAL_OPERATOR, Scope(), *uids)
    with receiving() as there, serving(room, there.peer) as server:
        answers = move(server, identifier("STUDY", StudyInstanceUID=first[0].StudyInstanceUID))
        assert counts(answers[-1][0]) == (0, 1, 0, 0)
    assert there.uids == [second[0].SOPInstanceUID]


def test_a_destination_that_is_not_there_fails_all_of_it(room: Room) -> None:
    slices = ct_series(2)
    keep(room, *slices)
    nobody = DimsePeer(ae="NOBODY", host="127.0.0.1", port=free_port())
    public = DimsePeer(ae="PUBLIC", host="192.0.2.1")
    with serving(room, nobody, public) as server:
        for to in ("NOBODY", "PUBLIC"):
            (last, failed) = move(server, identifier("STUDY", StudyInstanceUID=slices[0].StudyInstanceUID), to=to)[-1]
            assert counts(last) == (0xA702, 0, 2, 0)
            assert list(failed.FailedSOPInstanceUIDList) == [one.SOPInstanceUID for one in slices]
            assert last.ErrorComment


def test_nothing_goes_where_it_may_not(room: Room) -> None:
    ours, theirs = ct_series(1), ct_series(1)
    keep(room, *ours)
    keep(room, *theirs, facility="other")
    wanted = identifier("STUDY", StudyInstanceUID=ours[0].StudyInstanceUID)
    with (
        receiving() as there,
        serving(room, there.peer, there.peer.model_copy(update={"ae": "FOREIGN", "facility": "other"})) as server,
    ):
        for to in ("UNKNOWN", "READER", "FOREIGN"):
            assert [status.Status for status, _ in move(server, wanted, to=to)] == [0xA801]
        assert [status.Status for status, _ in move(server, wanted, ae="MUTE")] == [0x0124]
        others = identifier("STUDY", StudyInstanceUID=theirs[0].StudyInstanceUID)
        assert counts(move(server, others)[-1][0]) == (0, 0, 0, 0)
        assert there.came == []
        assert counts(move(server, others, ae="HUB")[-1][0]) == (0, 1, 0, 0)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        (STUDY_MOVE, identifier("PATIENT", PatientID="P")),
        (STUDY_MOVE, identifier("WORLD", StudyInstanceUID="1.2")),
        (STUDY_MOVE, identifier("STUDY")),
        (STUDY_MOVE, identifier("STUDY", StudyInstanceUID="")),
        (STUDY_MOVE, identifier("SERIES", StudyInstanceUID="1.2")),
        (PATIENT_MOVE, identifier("PATIENT")),
        (PATIENT_MOVE, identifier("PATIENT", PatientID=["1", "2"])),
    ],
)
def test_an_identifier_that_does_not_say_what_is_wanted_is_unfit(model: str, wanted: Dataset) -> None:
    with pytest.raises(Unfit):
        read_wanted(model, wanted)


def test_uids_are_told_without_wild_cards() -> None:
    wanted = identifier("STUDY")
    wanted.add_new("StudyInstanceUID", "LO", "1.2.*")  # as VR UI, pydicom would warn
    with pytest.raises(Unfit, match="wild cards"):
        read_wanted(STUDY_MOVE, wanted)


def test_an_unfit_identifier_is_answered_and_the_association_goes_on(room: Room) -> None:
    with receiving() as there, serving(room, there.peer) as server:
        association = associate(server)
        for wanted in (identifier("WORLD"), identifier("STUDY", StudyInstanceUID="1.2.3")):
            statuses = [status.Status for status, _ in association.send_c_move(wanted, "STORE", STUDY_MOVE)]
        assert statuses == [0]
        association.release()


def test_a_move_that_is_cancelled_ends(room: Room) -> None:
    slices = ct_series(5)
    keep(room, *slices)
    is_cancelled = threading.Event()
    with receiving() as there, serving(room, there.peer) as server:
        there.answers = lambda number: 0 if number == 1 or is_cancelled.wait(20) else 0xA700
        association = associate(server)
        last = None
        wanted = identifier("STUDY", StudyInstanceUID=slices[0].StudyInstanceUID)
        for status, _ in association.send_c_move(wanted, "STORE", STUDY_MOVE, msg_id=7):
            if last is None:
                association.send_c_cancel(7, query_model=STUDY_MOVE)
                threading.Timer(0.5, is_cancelled.set).start()  # pynetdicom sends on a thread of its own
            last = status
        association.release()
    assert last is not None
    assert last.Status == 0xFE00
    assert last.NumberOfCompletedSuboperations + last.NumberOfRemainingSuboperations == 5
    assert len(there.came) < 5


# -- C-GET -------------------------------------------------------------------------------------------------------------


def get(
    server: DimseServer, wanted: Dataset, takes: list[tuple[str, ...]], *, model: str = STUDY_GET
) -> tuple[Taker, Any]:
    """What came on the association that asks for it, and the last answer."""
    receiver = Taker()
    roles = [build_role(sop_class, scp_role=True) for sop_class in dict.fromkeys(one[0] for one in takes)]
    association = associate(
        server, takes=takes, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, receiver.take)], max_pdu=0
    )
    assert association.is_established
    *_, last = association.send_c_get(wanted, model)
    association.release()
    return receiver, last


def test_a_study_comes_on_the_association_that_asks_for_it(room: Room) -> None:
    slices = ct_series(3, PatientID="P7")
    keep(room, *slices)
    with serving(room) as server:
        there, (last, _) = get(
            server, identifier("PATIENT", PatientID="P7"), [(CT, ExplicitVRLittleEndian)], model=PATIENT_GET
        )
    assert counts(last) == (0, 3, 0, 0)
    assert [data for _, _, data in there.came] == [data_set(part10(one)) for one in slices]


def test_what_is_got_is_in_the_transfer_syntaxes_that_were_agreed(room: Room) -> None:
    movie, report = cine(2), text_report()
    report.StudyInstanceUID = movie.StudyInstanceUID
    slices = ct_series(1, study_uid=movie.StudyInstanceUID)
    keep(room, jpeg_2000(movie), report, *slices)
    wanted = identifier("STUDY", StudyInstanceUID=movie.StudyInstanceUID)
    sr = report.SOPClassUID
    with serving(room) as server:
        compressed, (last, _) = get(server, wanted, [(one, JPEG2000Lossless, *NATIVE) for one in (CINE, CT, sr)])
        assert counts(last) == (0, 3, 0, 0)
        plain, (last, _) = get(
            server, wanted, [(CINE, *NATIVE), (CINE, JPEG2000Lossless), (CT, ImplicitVRLittleEndian)]
        )
    assert {syntax for _, syntax, _ in compressed.came} == {JPEG2000Lossless}
    assert all(
        (compressed.read(compressed.uids.index(one.SOPInstanceUID)).pixel_array == one.pixel_array).all()
        for one in (movie, slices[0])
    )
    assert compressed.read(compressed.uids.index(report.SOPInstanceUID)).ContentSequence
    came = {uid: syntax for uid, syntax, _ in plain.came}
    assert came == {movie.SOPInstanceUID: JPEG2000Lossless, slices[0].SOPInstanceUID: ImplicitVRLittleEndian}
    assert counts(last) == (0xB000, 2, 1, 0)  # no context for the report


def test_who_gets_and_breaks_off_harms_nobody(room: Room) -> None:
    slices = ct_series(3)
    keep(room, *slices)
    wanted = identifier("STUDY", StudyInstanceUID=slices[0].StudyInstanceUID)
    with serving(room) as server:
        gone: list[Any] = []

        def leave(event: Any) -> int:
            event.assoc.abort()
            gone.append(event)
            return 0

        association = associate(
            server,
            takes=[(CT, ExplicitVRLittleEndian)],
            ext_neg=[build_role(CT, scp_role=True)],
            evt_handlers=[(evt.EVT_C_STORE, leave)],
            patience=1,  # so long does pynetdicom wait for what it has left
        )
        list(association.send_c_get(wanted, STUDY_GET))
        assert gone
        _, (last, _) = get(server, wanted, [(CT, ExplicitVRLittleEndian)])
    assert counts(last) == (0, 3, 0, 0)


# -- negotiation -------------------------------------------------------------------------------------------------------


def test_what_is_negotiated_beside_contexts_is_answered(room: Room) -> None:
    extended = SOPClassExtendedNegotiation()
    extended.sop_class_uid, extended.service_class_application_information = STUDY_MOVE, b"\1\1"
    identity = UserIdentityNegotiation()
    identity.user_identity_type, identity.positive_response_requested = 2, True
    identity.primary_field, identity.secondary_field = b"user", b"passcode"
    window = AsynchronousOperationsWindowNegotiation()
    window.maximum_number_operations_invoked = 5
    with serving(room) as server:
        association = associate(server, ext_neg=[extended, identity, window])
        assert association.is_established
        told = association.acceptor.primitive.user_information
        association.release()
    (answer,) = (one for one in told if isinstance(one, SOPClassExtendedNegotiation))
    assert (answer.sop_class_uid, answer.service_class_application_information) == (STUDY_MOVE, b"\0\0")
    (answer,) = (one for one in told if isinstance(one, AsynchronousOperationsWindowNegotiation))
    assert (answer.maximum_number_operations_invoked, answer.maximum_number_operations_performed) == (1, 1)
    (answer,) = (one for one in told if isinstance(one, UserIdentityNegotiation))
    assert answer.server_response == b""


def test_a_peer_that_gets_is_promised_what_nearly_all_can_be_written_in() -> None:
    baseline, j2k = "1.2.840.10008.1.2.4.50", str(JPEG2000Lossless)
    assert best_to_send(CT, [j2k, *NATIVE]) == j2k
    assert best_to_send(CT, [baseline, *NATIVE]) == ExplicitVRLittleEndian
    assert best_to_send(CT, [baseline]) == baseline
    assert best_to_send("1.2.840.10008.5.1.4.1.1.66.4", [j2k, *NATIVE]) == ExplicitVRLittleEndian


# -- sending -----------------------------------------------------------------------------------------------------------


def sender_of(room: Room) -> Sender:
    return Sender(engine=room.engine, blobs=room.blobs, codecs=room.codecs, settings=room.settings)


def stored(room: Room, *datasets: Dataset) -> list[StoredInstance]:
    wanted = Wanted(study_uids=tuple(one.StudyInstanceUID for one in datasets))
    return room.query(list_wanted, Scope(), wanted)


def test_an_instance_that_costs_the_association_is_told_and_the_others_follow(room: Room) -> None:
    slices = ct_series(4)
    keep(room, *slices)

    with receiving() as there:
        taken = there.take

        def take(event: Any) -> int:
            if event.request.AffectedSOPInstanceUID == slices[1].SOPInstanceUID:
                event.assoc.abort()
            return taken(event)

        entity = AE(ae_title="FRAGILE")
        entity.add_supported_context(CT, ExplicitVRLittleEndian)
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
        peer = DimsePeer(ae="FRAGILE", host="127.0.0.1", port=server.server_address[1])
        sent = list(sender_of(room).send(peer, stored(room, slices[0])))
        server.shutdown()
    assert [one.is_kept for one in sent] == [True, False, True, True]
    assert [one.instance.instance_uid for one in sent] == [one.SOPInstanceUID for one in slices]


def test_who_breaks_off_again_and_again_is_left(room: Room) -> None:
    slices = ct_series(6)
    keep(room, *slices)
    entity = AE(ae_title="FRAGILE")
    entity.add_supported_context(CT, ExplicitVRLittleEndian)
    handlers = [(evt.EVT_C_STORE, lambda event: event.assoc.abort() or 0)]
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    peer = DimsePeer(ae="FRAGILE", host="127.0.0.1", port=server.server_address[1])
    sending = sender_of(room).send(peer, stored(room, slices[0]))
    assert [next(sending).is_kept for _ in range(2)] == [False, False]
    with pytest.raises(Unreachable):
        next(sending)
    server.shutdown()


def test_more_classes_than_an_association_has_contexts_for_go_over_several(room: Room) -> None:
    (slice_,) = ct_series(1)
    classes = [f"1.2.826.0.1.3680043.2.1125.{number}" for number in range(70)]
    files = []
    for sop_class in classes:
        slice_.SOPClassUID = slice_.file_meta.MediaStorageSOPClassUID = sop_class
        slice_.SOPInstanceUID = slice_.file_meta.MediaStorageSOPInstanceUID = new_uid()
        files.append(part10(slice_))
    keep(room, *files)
    copying = DimsePeer(ae="READINGROOM", facility="copies")
    with serving(room, copying) as server:
        there = DimsePeer(ae="READINGROOM", host="127.0.0.1", port=server.port)
        sent = list(sender_of(room).send(there, stored(room, slice_)))
    assert len(sent) == 70
    assert all(one.is_kept and one.transfer_syntax == ExplicitVRLittleEndian for one in sent)
    wanted = Wanted(study_uids=(slice_.StudyInstanceUID,))
    copies = room.query(list_wanted, Scope(facilities=frozenset(("copies",))), wanted)
    assert {one.sop_class for one in copies} == set(classes)


def test_an_object_that_is_gone_from_the_store_is_told(room: Room) -> None:
    slices = ct_series(2)
    keep(room, *slices)
    first, second = stored(room, slices[0])
    path = room.blobs.local_path(first.object_key)
    assert path is not None
    path.unlink()
    with receiving() as there:
        sent = list(sender_of(room).send(there.peer, [first, second]))
    assert [one.is_kept for one in sent] == [False, True]
    assert there.uids == [second.instance_uid]


# -- programs of others ------------------------------------------------------------------------------------------------


@contextmanager
def storescp(folder: Path, *options: str) -> Iterator[DimsePeer]:
    """dcmtk's storescp, which writes what comes into a folder."""
    if shutil.which("storescp") is None:
        absent("dcmtk (storescp)")
    folder.mkdir()
    port = free_port()

    def is_there() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        except ConnectionRefusedError:
            return False
        return True

    command = ["storescp", *options, "-aet", "STORE", "-od", str(folder), str(port)]
    with running(command, log=folder.with_suffix(".log"), is_ready=is_there):
        yield DimsePeer(ae="STORE", host="127.0.0.1", port=port)


def run(*command: str) -> str:
    if shutil.which(command[0]) is None:
        absent(f"dcmtk ({command[0]})")
    told = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
    return told.stdout + told.stderr


def files_in(folder: Path) -> dict[str, FileDataset]:
    read = [dcmread(path) for path in folder.iterdir()]
    return {one.SOPInstanceUID: one for one in read}


@pytest.mark.parametrize(
    ("options", "syntax"), [(("+xi",), ImplicitVRLittleEndian), (("+xv",), JPEG2000Lossless)], ids=["implicit", "j2k"]
)
def test_dcmtk_moves_a_study_to_dcmtk(room: Room, tmp_path: Path, options: tuple[str, ...], syntax: str) -> None:
    movie = cine(2)
    keep(room, jpeg_2000(movie))
    with storescp(tmp_path / "came", *options) as peer, serving(room, peer) as server:
        where = ["-aet", "READER", "-aec", "READINGROOM", "127.0.0.1", str(server.port)]
        key = f"StudyInstanceUID={movie.StudyInstanceUID}"
        said = run("movescu", "-v", "-S", "-aem", "STORE", *where, "-k", "QueryRetrieveLevel=STUDY", "-k", key)
    (came,) = files_in(tmp_path / "came").values()
    assert came.file_meta.TransferSyntaxUID == syntax, said
    assert (came.pixel_array == movie.pixel_array).all()


@pytest.mark.parametrize(("options", "syntax"), [((), ExplicitVRLittleEndian), (("+xv",), JPEG2000Lossless)])
def test_dcmtk_gets_a_study(room: Room, tmp_path: Path, options: tuple[str, ...], syntax: str) -> None:
    movie, (slice_,) = cine(2), ct_series(1)
    movie.StudyInstanceUID = slice_.StudyInstanceUID
    keep(room, jpeg_2000(movie), slice_)
    folder = tmp_path / "came"
    folder.mkdir()
    with serving(room) as server:
        where = ["-aet", "READER", "-aec", "READINGROOM", "127.0.0.1", str(server.port)]
        key = f"StudyInstanceUID={slice_.StudyInstanceUID}"
        said = run(
            *("getscu", "-v", "-S", *options, "-od", str(folder), *where),
            *("-k", "QueryRetrieveLevel=STUDY", "-k", key),
        )
    came = files_in(folder)
    assert came.keys() == {movie.SOPInstanceUID, slice_.SOPInstanceUID}, said
    for one in (movie, slice_):
        assert came[one.SOPInstanceUID].file_meta.TransferSyntaxUID == syntax
        assert (came[one.SOPInstanceUID].pixel_array == one.pixel_array).all()
