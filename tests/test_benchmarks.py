"""The benchmark: its client reads whatever HTTP peers send, its checks let no wrong answer pass."""

from __future__ import annotations

import gzip
import io
import json
import socket
import threading
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import imagecodecs
import pydicom
import pytest

from benchmarks import giant, made, multipart, phantom, qido, stow, table, wado
from benchmarks.client import Connection, Reply, WrongAnswer, crowd, fetch_all
from benchmarks.measure import Goal, Result, Row, Sample, Workload, compare
from benchmarks.peers import Missing, Nginx, Orthanc, Peer
from tests.conftest import absent

REQUEST = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def answering(*answers: Sequence[bytes]) -> Iterator[int]:
    """A server that gives these answers one after the other, each in pieces; it hangs up where a piece is empty."""
    listener = socket.create_server(("127.0.0.1", 0))
    left = list(answers)

    def serve() -> None:
        while left:
            peer, _ = listener.accept()
            with peer:
                while left and peer.recv(65536):
                    for piece in left.pop(0):
                        if not piece:
                            peer.close()
                            break
                        peer.sendall(piece)
                        time.sleep(0.002)  # so that the pieces arrive one by one
                    if peer.fileno() < 0:
                        break

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    thread.join(5)
    listener.close()


def reply_of(body: bytes, *, status: int = 200, content_type: str = "application/dicom+json") -> Reply:
    headers = {"content-type": content_type}
    return Reply(status=status, headers=headers, raw=memoryview(body), seconds=0.001, done_at=0.0)


class Replayed(Peer):
    """A peer that is no process: it answers from a list of figures, or wrongly."""

    kind, name, root, ready = "orthanc", "Replayed", "", ""

    def __init__(self, home: Path, *, kind: str, name: str, figures: Sequence[float]) -> None:
        super().__init__(home)
        self.kind, self.name, self.figures = kind, name, iter(figures)

    @classmethod
    def version(cls) -> str:
        return "Replayed 1"

    def command(self) -> Sequence[str]:
        return ()

    def cpu_seconds(self) -> float:
        return 0.0


def test_a_reply_that_trickles_in_is_read_whole() -> None:
    with answering([OK + b"Content-Le", b"ngth: 6\r\n\r", b"\nabc", b"def"]) as port:
        reply = Connection(port).exchange(REQUEST)
    assert bytes(reply.body) == b"abcdef"
    assert reply.seconds > 0


def test_chunked_coding_is_undone_wherever_it_is_torn() -> None:
    whole = OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n1a;x=y\r\nefghijklmnopqrstuvwxyz0123\r\n0\r\n\r\n"
    for size in (1, 3, 7, len(whole)):
        with answering([whole[at : at + size] for at in range(0, len(whole), size)]) as port:
            reply = Connection(port).exchange(REQUEST)
        assert bytes(reply.body) == b"abcdefghijklmnopqrstuvwxyz0123"


def test_gzip_is_undone_with_the_clock_stopped_and_the_coded_bytes_are_kept() -> None:
    coded = gzip.compress(b"[]" * 500)
    head = OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(coded)
    with answering([head + coded]) as port:
        reply = Connection(port).exchange(REQUEST)
    assert bytes(reply.body) == b"[]" * 500
    assert bytes(reply.coded) == coded


def test_a_reply_without_a_length_ends_with_its_connection_and_the_next_one_comes_over_a_new_one() -> None:
    with answering([OK + b"\r\nto the end", b""], [OK + b"Content-Length: 2\r\n\r\nok"]) as port:
        connection = Connection(port)
        first = bytes(connection.exchange(REQUEST).body)
        second = bytes(connection.exchange(REQUEST).body)
    assert (first, second) == (b"to the end", b"ok")


def test_a_connection_that_the_peer_closed_as_idle_is_opened_anew() -> None:
    with answering([OK + b"Content-Length: 1\r\n\r\n1", b""], [OK + b"Content-Length: 1\r\n\r\n2"]) as port:
        connection = Connection(port)
        first = bytes(connection.exchange(REQUEST).body)
        time.sleep(0.1)
        second = bytes(connection.exchange(REQUEST).body)
    assert (first, second) == (b"1", b"2")


def test_a_reply_that_breaks_off_is_a_wrong_answer() -> None:
    with (
        answering([OK + b"Content-Length: 9\r\n\r\nabc", b""]) as port,
        pytest.raises(WrongAnswer, match="closed after"),
    ):
        Connection(port).exchange(REQUEST)


def test_a_reply_greater_than_the_buffer_is_read_whole() -> None:
    body = bytes(range(256)) * 64
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(body), body) for _ in range(20)) + b"0\r\n\r\n"
    with answering(
        [OK + b"Content-Length: %d\r\n\r\n" % len(body) + body], [OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks]
    ) as port:
        connection = Connection(port, buffer=bytearray(100))
        assert bytes(connection.exchange(REQUEST).body) == body
        assert bytes(connection.exchange(REQUEST).body) == body * 20


def test_replies_over_several_connections_come_in_the_order_they_were_asked_for() -> None:
    with answering(*([OK + b"Content-Length: 2\r\n\r\n%02d" % number] for number in range(7))) as port:
        connection = Connection(port)
        connection.connect()
        started, replies = fetch_all([connection], [REQUEST] * 7, [bytearray(200) for _ in range(7)])
    assert [bytes(reply.body) for reply in replies] == [b"%02d" % number for number in range(7)]
    assert started < replies[0].done_at < replies[6].done_at


def test_a_crowd_starts_together_and_gives_every_result() -> None:
    def task(number: int):  # type: ignore[no-untyped-def]
        def work(go):  # type: ignore[no-untyped-def]
            time.sleep(0.05 * number)
            ready = time.perf_counter()
            go()
            return number, ready, time.perf_counter()

        return work

    results = crowd([task(number) for number in range(3)])
    assert [number for number, _, _ in results] == [0, 1, 2]
    assert min(gone for _, _, gone in results) >= max(ready for _, ready, _ in results)


def test_a_crowd_says_which_failure_came_first() -> None:
    def fails(go):  # type: ignore[no-untyped-def]
        raise WrongAnswer("not stored")

    def waits(go):  # type: ignore[no-untyped-def]
        go()

    with pytest.raises(WrongAnswer, match="not stored"):
        crowd([waits, fails, waits])


def test_a_multipart_body_comes_apart_into_what_it_was_packed_from() -> None:
    files = [b"first\r\n--almost", b"", b"third"]
    reply = reply_of(multipart.pack(files), content_type=multipart.STOW_TYPE)
    assert list(multipart.unpack(reply)) == files


def test_a_multipart_body_without_an_end_is_a_wrong_answer() -> None:
    reply = reply_of(multipart.pack([b"one", b"two"])[:-12], content_type=multipart.STOW_TYPE)
    with pytest.raises(WrongAnswer, match="does not end"):
        list(multipart.unpack(reply))


def test_the_slices_of_a_series_differ_in_what_slices_differ_in_and_are_read_by_pydicom() -> None:
    slices = [pydicom.dcmread(io.BytesIO(blob)) for blob in phantom.ct_series(5, 3)]
    assert len({ds.StudyInstanceUID for ds in slices}) == len({ds.SeriesInstanceUID for ds in slices}) == 1
    assert [ds.SOPInstanceUID for ds in slices] == [phantom.instance_uid(5, number) for number in (1, 2, 3)]
    assert [ds.InstanceNumber for ds in slices] == [1, 2, 3]
    assert (
        [ds.ImagePositionPatient[2] for ds in slices]
        == [ds.SliceLocation for ds in slices]
        == [-298.75, -297.5, -296.25]
    )
    assert [ds.PixelData for ds in slices] == [phantom.native_frame(number) for number in (1, 2, 3)]
    assert all(ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID for ds in slices)
    assert 110 <= sum(1 for _ in slices[0].iterall()) <= 170


def test_a_compressed_slice_decodes_to_the_pixels_that_were_drawn() -> None:
    (blob,) = phantom.ct_series(6, 1, compressed=True)
    assert pydicom.dcmread(io.BytesIO(blob)).file_meta.TransferSyntaxUID == pydicom.uid.JPEGLSLossless
    assert phantom.compressed_frame(1) in blob
    assert (imagecodecs.jpegls_decode(phantom.compressed_frame(1)) == phantom.slice_pixels(1)).all()


def test_a_value_too_long_for_its_gap_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than its gap"):
        phantom.small_mould().cast(modality="TOO LONG")


def test_the_smallest_index_holds_more_than_a_page_of_the_dates_that_are_searched() -> None:
    studies = [phantom.SmallStudy(number=number) for number in range(2000)]
    matches = [s for s in studies if qido.FIRST_DATE <= s.study_date <= qido.LAST_DATE and s.modality == qido.MODALITY]
    assert len(matches) > qido.ROWS
    ds = pydicom.dcmread(io.BytesIO(matches[0].cast()))
    assert (ds.StudyInstanceUID, ds.AccessionNumber) == (matches[0].study_uid, matches[0].accession)
    assert (ds.StudyDate, ds.Modality) == (matches[0].study_date, "CT")


@pytest.mark.parametrize("compressed", [True, False])
def test_a_giant_is_a_readable_object_of_the_size_that_is_said(
    compressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(giant, "ENCAPSULATED_BYTES", 2 << 20)
    monkeypatch.setattr(giant, "NATIVE_BYTES", 2 << 20)
    body = reply_of(b"".join(giant.pieces(compressed=compressed)), content_type=multipart.STOW_TYPE)
    ds = pydicom.dcmread(io.BytesIO(multipart.only_part(body)))
    assert ds.NumberOfFrames == giant.frame_count(compressed=compressed) > 3
    last = phantom.compressed_frame if compressed else phantom.native_frame
    frames = (
        list(pydicom.encaps.generate_frames(ds.PixelData, number_of_frames=ds.NumberOfFrames))
        if compressed
        else [ds.PixelData[-phantom.FRAME_BYTES :]]
    )
    assert frames[-1] == last(ds.NumberOfFrames)


def test_only_a_whole_and_faultless_store_counts() -> None:
    sop = {"00081155": {"vr": "UI", "Value": ["1.2"]}}
    stow.check_stored(json.dumps({"00081199": {"vr": "SQ", "Value": [sop, sop]}}).encode(), 2)
    with pytest.raises(WrongAnswer, match="1 of 2"):
        stow.check_stored(json.dumps({"00081199": {"vr": "SQ", "Value": [sop]}}).encode(), 2)
    with pytest.raises(WrongAnswer, match="1 failed"):
        stow.check_stored(json.dumps({"00081199": {"Value": [sop]}, "00081198": {"Value": [sop]}}).encode(), 1)


def test_a_frame_with_one_wrong_byte_is_a_wrong_answer() -> None:
    check = wado.is_frame(phantom.native_frame(3))
    check(reply_of(multipart.pack([phantom.native_frame(3)]), content_type=multipart.STOW_TYPE))
    wrong = bytearray(phantom.native_frame(3))
    wrong[-1] ^= 1
    with pytest.raises(WrongAnswer, match="not the 524288 bytes"):
        check(reply_of(multipart.pack([bytes(wrong)]), content_type=multipart.STOW_TYPE))


def test_a_zip_comes_apart_into_its_instances_without_the_directory() -> None:
    file = next(phantom.ct_series(wado.NATIVE, 1))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("DICOMDIR", b"a directory")
        archive.writestr("IMAGES/I0000001", file)
    assert made.in_zip(reply_of(buffer.getvalue(), content_type="application/zip")) == [file]
    wado.check_file(file, 1)
    with pytest.raises(WrongAnswer, match="not instance 2"):
        wado.check_file(file, 2)


@pytest.mark.parametrize(
    ("encode", "decode"),
    [(made.encode_htj2k, imagecodecs.htj2k_decode), (made.encode_jpeg_ls, imagecodecs.jpegls_decode)],
)
def test_the_codec_that_is_called_alone_is_lossless(encode: made.Encode, decode: made.Decode) -> None:
    pixels = phantom.slice_pixels(5)
    assert (decode(encode(pixels)) == pixels).all()


def test_metadata_that_lacks_an_instance_or_attributes_is_a_wrong_answer() -> None:
    ds = pydicom.dcmread(io.BytesIO(next(phantom.ct_series(wado.NATIVE, 1))))
    ds.PixelData = b""
    header = ds.to_json_dict()
    uids = [phantom.instance_uid(wado.NATIVE, number) for number in range(1, wado.NATIVE_COUNT + 1)]
    every = [{**header, "00080018": {"vr": "UI", "Value": [uid]}} for uid in uids]
    wado.check_metadata(reply_of(json.dumps(every).encode()))
    with pytest.raises(WrongAnswer, match="499"):
        wado.check_metadata(reply_of(json.dumps(every[1:]).encode()))
    every[7] = {"00080018": every[7]["00080018"]}
    with pytest.raises(WrongAnswer, match="not the whole header"):
        wado.check_metadata(reply_of(json.dumps(every).encode()))


def test_rows_of_another_study_are_a_wrong_answer() -> None:
    _, is_right = qido.by_accession(4)
    rows = [{"0020000D": {"vr": "UI", "Value": [phantom.SmallStudy(number=4).study_uid]}}]
    assert is_right(rows)
    assert not is_right(rows * 2)
    assert not is_right([{"0020000D": {"vr": "UI", "Value": [phantom.SmallStudy(number=5).study_uid]}}])


def test_peers_take_turns_and_the_warming_up_does_not_count(tmp_path: Path) -> None:
    turns: list[str] = []

    def run(peer: Peer) -> Sample:
        assert isinstance(peer, Replayed)
        turns.append(peer.name)
        return Sample(values=(next(peer.figures),), requests=1)

    ours = Replayed(tmp_path, kind="readingroom", name="ours", figures=[99, 1, 2, 3])
    other = Replayed(tmp_path, kind="orthanc", name="other", figures=[99, 10, 30, 20])
    (result,) = compare(Workload(name="w", rows=(Row(title="w"),), run=run), [ours, other], rounds=3)
    assert turns == ["ours", "other"] * 4
    assert result.values == {"ours": [1, 2, 3], "other": [10, 30, 20]}
    assert result.ratio("orthanc") == 10


def test_a_peer_that_answers_wrongly_has_no_figures(tmp_path: Path) -> None:
    def run(peer: Peer) -> Sample:
        if peer.name == "other":
            raise WrongAnswer("3 rows, not 1")
        return Sample(values=(5.0,), requests=1)

    peers = [
        Replayed(tmp_path, kind=kind, name=name, figures=[])
        for kind, name in (("readingroom", "ours"), ("orthanc", "other"))
    ]
    (result,) = compare(Workload(name="w", rows=(Row(title="w"),), run=run), peers, rounds=2)
    assert result.failures == {"other": "WrongAnswer: 3 rows, not 1"}
    assert result.ratio("orthanc") is None
    assert table.cell(result, "other") == "wrong answer"


def test_a_goal_is_reached_missed_or_not_measured() -> None:
    kinds = {"ours": "readingroom", "slow": "orthanc", "quick": "orthanc", "files": "nginx"}
    goals = (Goal(limit=2), Goal(limit=10, against="orthanc"), Goal(limit=1.5, against="nginx"))
    row = Row(title="metadata", unit="ms", goals=goals)
    result = Result(row=row, kinds=kinds, values={"ours": [2.0], "slow": [90.0], "quick": [16.0], "files": [1.0]})
    assert result.ratio("orthanc") == 8, "the better of the two counts"
    assert [result.is_reached(goal) for goal in goals] == [True, False, False]
    assert table.verdicts(result, goals) == "≤ 2 ms: reached; ≥ 10x Orthanc: **missed**; ≤ 1.5x nginx: **missed**"
    rate = Result(row=Row(title="stow", unit="inst/s"), kinds=kinds, values={"ours": [600.0], "slow": [200.0]})
    assert rate.ratio("orthanc") == 3
    assert rate.is_reached(Goal(limit=2, against="orthanc")) is True
    assert rate.is_reached(Goal(limit=2, against="nginx")) is None


def test_the_page_and_the_picture_show_every_row(tmp_path: Path) -> None:
    kinds = {"readingroom": "readingroom", "Orthanc": "orthanc"}
    values = {"readingroom": [1.0, 2.0, 4.0], "Orthanc": [20.0]}
    result = Result(row=Row(title="one frame", goals=(Goal(limit=0.5),)), kinds=kinds, values=values)
    page = table.markdown([result], versions={"orthanc": "Orthanc 1.10.1"}, studies=[2000])
    assert "| one frame, ms | 2.00 (1.00..4.00) | 20.0 | 10.0x | - | ≤ 0.5 ms: **missed** | - |" in page
    assert "Orthanc 1.10.1" in page
    table.plot([result], tmp_path / "images" / "plot.png")
    assert (tmp_path / "images" / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    try:
        Orthanc.version()
    except Missing as error:
        absent(error)
    peer = Orthanc(tmp_path / "orthanc")
    peer.start()
    yield peer
    peer.stop()


def test_nginx_serves_the_very_bytes_that_orthanc_answered(orthanc: Orthanc, tmp_path: Path) -> None:
    try:
        Nginx.version()
    except Missing as error:
        absent(error)
    assert stow.load(orthanc, phantom.ct_series(wado.NATIVE, 2), a_request=2) == 2
    nginx, connection = Nginx(tmp_path / "nginx"), orthanc.connect()
    path = wado.frame_path(wado.NATIVE, 2)
    reply = connection.exchange(orthanc.get(path, wado.FRAME)).expect(200)
    nginx.keep(path, reply)
    nginx.start()
    try:
        served = nginx.connect().exchange(nginx.get(path, wado.FRAME)).expect(200)
        wado.is_frame(phantom.native_frame(2))(served)
        assert bytes(served.body) == bytes(reply.body)
        assert served.headers["content-type"] == reply.headers["content-type"]
        assert nginx.memory_bytes() > 0
    finally:
        nginx.stop()


def test_a_twin_of_orthanc_answers_as_the_first_and_compresses(orthanc: Orthanc, tmp_path: Path) -> None:
    studies = [phantom.SmallStudy(number=number) for number in range(40)]
    stow.load(orthanc, (study.cast() for study in studies), a_request=20)
    orthanc.stop()
    twin = orthanc.twin(tmp_path / "twin", compression=True)
    twin.start()
    try:
        reply = twin.connect().exchange(twin.get("/studies?limit=40", qido.JSON, "gzip")).expect(200)
        assert reply.headers["content-encoding"] == "gzip"
        rows = json.loads(bytes(reply.body))
        assert {row["0020000D"]["Value"][0] for row in rows} == {study.study_uid for study in studies}
    finally:
        twin.stop()
