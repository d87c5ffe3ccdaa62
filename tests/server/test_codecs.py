"""Codecs in child processes: whatever a call does in there, its caller gets an error and the next one its answer."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from base64 import b85decode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlencode

import httpx
import imagecodecs
import numpy as np
import pypdfium2
import pytest
from PIL import Image, ImageCms
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless

from readingroom.errors import NotDicom, NotFound, Unavailable, Undecodable
from server.codecs import Codecs
from server.room import Room
from server.volumes import ShownStudies
from storage.arrays import ArraySpec
from storage.icc import profile_of
from storage.objects import scan
from storage.pixels import decode_frame
from tests import hostile, synthetic
from tests.retrieve import AS_STORED_PARTS, NATIVE_FRAMES, compressed, jpeg_ls, keep, url_of
from tests.servers import REPOSITORY

PATIENCE_SECONDS = 30.0
MEMORY_BYTES = 256 << 20

BLANK_16000 = zlib.decompress(
    b85decode(
        "c-s5#|38pHlK}|q8Xy=3(D;n(jEw(-7<fQT238gp2FCv}48jf$9v%V6=zj`>Dg&c)QEFmIYKlTqrGkG!YMxhstGhy3YEf}!ex8Dno~fS6{|O9S"
        "AXAx@f#yv9{f{yJfHs);@1XsIwf=zi50?K7;UBobVn6|g^$$e<Fx7*I{isBJ1Ew-C3rxTbR)@>(hiOnp*oveKXs`bV&VP*dFgBN9K*;+4^)EXU"
        ">M3XK5qmpo-0(JT{rl&XFhH;Y1peOy0LHDh*#"
    )
)
"""A blank JPEG 2000 image of 16,000 x 16,000 pixels in 924 bytes; OpenJPEG takes 1.3 GB to decode it."""


def make(**changes: object) -> Codecs:
    kwargs = {
        "children": 2,
        "memory_bytes": MEMORY_BYTES,
        "seconds": PATIENCE_SECONDS,
        "packages": ("storage", "tests"),
    }
    return Codecs(**kwargs | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def victims() -> Iterator[Codecs]:
    """Two children for this whole file, which may call what is hostile."""
    codecs = make()
    yield codecs
    codecs.close()


@pytest.fixture
def codecs(victims: Codecs) -> Iterator[Codecs]:
    """They have to be of use after whatever a test did to them."""
    yield victims
    assert victims.call(hostile.same, b"alive") == b"alive"


@pytest.fixture
def alone() -> Iterator[Callable[..., Codecs]]:
    """Makes children for one test, with other limits, and without the codecs that they would have to import."""
    made: list[Codecs] = []

    def start(**changes: object) -> Codecs:
        made.append(make(**{"preloaded": ["tests.hostile"]} | changes))
        return made[-1]

    yield start
    for codecs in made:
        codecs.close()


def eventually(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < give_up, "it never came to that"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def lost(codecs: Codecs) -> dict[str, float]:
    samples = [sample for metric in codecs.losses.collect() for sample in metric.samples]
    return {sample.labels["reason"]: sample.value for sample in samples if sample.name.endswith("_total")}


def ct_frame() -> tuple[np.ndarray, bytes, ArraySpec]:
    pixels = (np.arange(64 * 64, dtype="<u2") % 4096).reshape(64, 64)
    dataset = synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.7")
    synthetic.set_pixels(dataset, pixels)
    spec = scan(synthetic.part10(compressed(dataset, JPEGLSLossless, jpeg_ls))).spec
    assert spec is not None
    return pixels, jpeg_ls(pixels), spec


def blank_slide() -> synthetic.FileDataset:
    dataset = synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.7", transfer_syntax=JPEG2000Lossless)
    synthetic.set_pixels(dataset, np.zeros((2, 2), np.uint8))
    dataset.Rows = dataset.Columns = 16_000
    dataset.PixelData = encapsulate([BLANK_16000])
    dataset["PixelData"].is_undefined_length = True
    return dataset


# What goes in comes out


def test_a_frame_decodes_to_the_same_in_a_child(codecs: Codecs) -> None:
    pixels, bitstream, spec = ct_frame()
    decoded = codecs.decode(bitstream, spec)
    assert np.array_equal(decoded, pixels)
    assert decoded.dtype == decode_frame(bitstream, spec).dtype


def test_native_frames_never_travel_to_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = make()
    monkeypatch.setattr(idle, "call", None)
    dataset = synthetic.ct_series(slices=1)[0]
    spec = scan(synthetic.part10(dataset)).spec
    assert spec is not None
    assert np.array_equal(idle.decode(dataset.PixelData, spec), dataset.pixel_array)


def test_a_call_runs_in_another_process(codecs: Codecs) -> None:
    assert codecs.call(hostile.pid) != os.getpid()


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"bytes",
        bytearray(b"bytearray"),
        "text",
        [1, (2.5, {"three": b"3"})],
        ("a pair", b"of text and bytes"),
    ],
    ids=repr,
)
def test_values_come_back_as_they_went(codecs: Codecs, value: object) -> None:
    assert codecs.call(hostile.kind, value) == type(value).__name__
    back = codecs.call(hostile.same, value)
    assert back == value
    assert type(back) is type(value)


def test_a_memoryview_travels_as_a_buffer(codecs: Codecs) -> None:
    assert codecs.call(hostile.kind, memoryview(b"123")) == "memoryview"
    assert codecs.call(hostile.same, memoryview(b"123")) == b"123"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12, dtype="<i2").reshape(3, 4),
        np.arange(12, dtype=">u4").reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(24, dtype="u1").reshape(4, 6)[::2, ::3],
        np.zeros((0, 3), "f4"),
        np.array(7, "u2"),
    ],
    ids=["rows first", "big endian", "columns first", "a slice", "empty", "one number"],
)
def test_arrays_come_back_equal_and_writeable(codecs: Codecs, array: np.ndarray) -> None:
    back = codecs.call(hostile.same, array)
    assert np.array_equal(back, array)
    assert back.dtype == array.dtype
    back[...] = 1


def test_a_spec_comes_back_equal(codecs: Codecs) -> None:
    _, _, spec = ct_frame()
    assert codecs.call(hostile.same, spec) == spec


def test_a_result_stays_as_it_is_while_the_child_goes_on(codecs: Codecs) -> None:
    first = codecs.call(hostile.same, np.full(1000, 1))
    for other in range(2, 5):
        codecs.call(hostile.same, np.full(1000, other))
    assert (first == 1).all()


def test_a_value_larger_than_the_last_fits(codecs: Codecs) -> None:
    for size in (10, 3 << 20, 1 << 10, 40 << 20, 10):
        assert codecs.call(hostile.same, np.full(size, 9, np.uint8)).sum(dtype=int) == 9 * size


def test_what_is_too_large_for_a_child_is_refused_before_it_is_sent(codecs: Codecs) -> None:
    with pytest.raises(Undecodable, match="too much"):
        codecs.call(hostile.kind, bytes(MEMORY_BYTES + 1))


def test_calls_from_many_threads_share_the_children(codecs: Codecs) -> None:
    def call(number: int) -> tuple[int, int]:
        array = codecs.call(hostile.same, np.full(50_000, number))
        return int(array.min()) if array.min() == array.max() else -1, codecs.call(hostile.pid)

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(call, range(60)))
    assert [number for number, _ in answers] == list(range(60))
    assert len({pid for _, pid in answers}) <= 2


# What goes wrong in a child


def test_an_error_with_meaning_comes_back_as_itself(codecs: Codecs) -> None:
    pid = codecs.call(hostile.pid)
    with pytest.raises(NotFound, match="There is no such thing"):
        codecs.call(hostile.refuse)
    with pytest.raises(Unavailable) as postponed:
        codecs.call(hostile.postpone)
    assert postponed.value.retry_after == 7
    assert codecs.call(hostile.pid) == pid, "the child has not been replaced"


def test_a_broken_frame_is_no_dicom_in_a_child_too(codecs: Codecs) -> None:
    _, bitstream, spec = ct_frame()
    with pytest.raises(NotDicom) as here:
        decode_frame(bitstream[:-40], spec)
    with pytest.raises(NotDicom) as there:
        codecs.decode(bitstream[:-40], spec)
    assert type(there.value) is NotDicom
    assert there.value.message == here.value.message


def test_a_bug_shows_its_traceback_where_the_call_was_made(codecs: Codecs) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)in stumble.*KeyError: 'a bug'"):
        codecs.call(hostile.stumble)


@pytest.mark.parametrize(
    ("function", "args", "reason", "says"),
    [
        (hostile.abort, (), "crash", "Aborted"),
        (hostile.segfault, (), "crash", "Segmentation fault"),
        (hostile.leave, (), "crash", "exit status 0"),
        (hostile.panic, (), "crash", "Panic"),
        (hostile.eat, (4 * MEMORY_BYTES,), "memory", "256 MiB"),
        (hostile.grow, (), "memory", "256 MiB"),
        (hostile.babble, (b"r",), "garbled", "no usable answer"),
        (hostile.babble, (b"r" + bytes(7),), "garbled", "no usable answer"),
        (hostile.babble, (b"r" + struct.pack("<QQ", 0, 1 << 50),), "garbled", "no usable answer"),
        (hostile.babble, (b"r" + struct.pack("<QQ", 1 << 63, 1 << 63),), "garbled", "no usable answer"),
        (hostile.babble, (b"r" + struct.pack("<QQ", 0, 64),), "garbled", "no usable answer"),
        (hostile.babble, (b"r" + struct.pack("<QQ", 0, 1 << 20) * 4000,), "garbled", "no usable answer"),
        (hostile.babble, (b"?",), "garbled", "no usable answer"),
    ],
)
def test_what_kills_a_child_costs_its_own_call_alone(
    codecs: Codecs,
    caplog: pytest.LogCaptureFixture,
    function: Callable[..., object],
    args: tuple[object, ...],
    reason: str,
    says: str,
) -> None:
    before = lost(codecs).get(reason, 0)
    with pytest.raises(Undecodable, match=says):
        codecs.call(function, *args)
    assert lost(codecs)[reason] == before + 1
    (record,) = caplog.records
    assert f"tests.hostile.{function.__name__}: {reason}" in record.getMessage()


def test_a_call_that_has_just_killed_a_child_is_not_made_again_for_a_minute(
    codecs: Codecs, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = np.arange(1000)
    with pytest.raises(Undecodable, match="Aborted"):
        codecs.call(hostile.abort, frame)
    before = lost(codecs)
    with pytest.raises(Undecodable, match="Aborted"):
        codecs.call(hostile.abort, frame.copy())
    assert lost(codecs) == before, "it was made again"
    with pytest.raises(Undecodable, match="Aborted"):
        codecs.call(hostile.abort, frame + 1)
    assert lost(codecs) != before, "another frame is another call"
    later = time.monotonic() + 61
    monkeypatch.setattr("server.codecs.time.monotonic", lambda: later)
    with pytest.raises(Undecodable, match="Aborted"):
        codecs.call(hostile.abort, frame)
    assert lost(codecs)["crash"] == before["crash"] + 2


def test_a_call_that_takes_too_long_is_ended(alone: Callable[..., Codecs]) -> None:
    codecs = alone(seconds=1.0, children=1)
    pid = codecs.call(hostile.pid)
    with pytest.raises(Undecodable, match="more than 1 seconds"):
        codecs.call(hostile.spin)
    assert not is_running(pid)
    assert lost(codecs) == {"time": 1}
    assert codecs.call(hostile.pid) != pid


def test_a_child_that_is_killed_in_the_middle_of_a_call_costs_that_call(
    alone: Callable[..., Codecs], tmp_path: Path
) -> None:
    codecs = alone(children=1)
    pid = codecs.call(hostile.pid)
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(codecs.call, hostile.wait, str(tmp_path / "begun"))
        eventually((tmp_path / "begun").exists)
        next_one = threads.submit(codecs.call, hostile.pid)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(Undecodable, match="Killed"):
            waiting.result()
        assert next_one.result() != pid


def test_a_child_that_is_killed_between_calls_costs_nothing(alone: Callable[..., Codecs]) -> None:
    codecs = alone(children=1)
    pid = codecs.call(hostile.pid)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_running(pid))
    assert codecs.call(hostile.pid) != pid
    assert lost(codecs) == {}


def test_a_service_that_is_told_to_end_keeps_its_codecs_for_what_it_still_answers(
    alone: Callable[..., Codecs],
) -> None:
    codecs = alone(children=1)
    pid = codecs.call(hostile.pid)
    for asked in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(pid, asked)
        os.kill(parent_of(pid), asked)
    assert codecs.call(hostile.pid) == pid


def test_without_open_files_to_spare_the_caller_is_told_to_come_back(
    alone: Callable[..., Codecs], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    codecs = alone()
    with monkeypatch.context() as patch:
        patch.setattr("server.codecs.os.memfd_create", full)
        with pytest.raises(Unavailable, match="Too many open files"):
            codecs.call(hostile.pid)
    assert is_running(codecs.call(hostile.pid))


def test_a_fork_server_that_is_killed_is_started_again(alone: Callable[..., Codecs]) -> None:
    codecs = alone(children=1)
    pid = codecs.call(hostile.pid)
    os.kill(parent_of(pid), signal.SIGKILL)
    eventually(lambda: not is_running(pid))
    assert codecs.call(hostile.pid) != pid


def test_a_result_cannot_make_the_server_call_anything(codecs: Codecs, tmp_path: Path) -> None:
    with pytest.raises(Undecodable, match="no usable answer"):
        codecs.call(hostile.bomb, str(tmp_path / "made"))
    assert not (tmp_path / "made").exists()


def test_a_result_that_cannot_travel_is_a_bug_of_the_function(codecs: Codecs) -> None:
    with pytest.raises(RuntimeError, match="pickle"):
        codecs.call(hostile.lambda_result)


def test_only_functions_of_the_packages_named_are_called(alone: Callable[..., Codecs]) -> None:
    codecs = alone(packages=("storage",))
    with pytest.raises(RuntimeError, match=r"tests\.hostile\.pid is not called in a child"):
        codecs.call(hostile.pid)


def test_children_leave_no_core_file_fill_no_disk_and_are_the_first_to_go(codecs: Codecs) -> None:
    assert codecs.call(hostile.limits) == (0, MEMORY_BYTES)
    assert codecs.call(hostile.likely_victim) == "1000"


def test_lost_children_leave_no_open_files_behind(codecs: Codecs) -> None:
    codecs.call(hostile.pid)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        with pytest.raises(Undecodable):
            codecs.call(hostile.abort, number)
    codecs.call(hostile.pid)
    assert len(os.listdir("/proc/self/fd")) <= before + 1


# Coming and going


def test_a_child_without_work_leaves_and_another_comes_when_there_is_some(alone: Callable[..., Codecs]) -> None:
    codecs = alone(idle_seconds=0.05)
    for _ in range(3):
        pid = codecs.call(hostile.pid)
        eventually(lambda pid=pid: not is_running(pid))  # type: ignore[misc]
    assert codecs.call(hostile.pid) != pid
    assert lost(codecs) == {}


def test_closing_ends_every_child_and_tells_who_waits(alone: Callable[..., Codecs], tmp_path: Path) -> None:
    codecs = alone(children=1)
    pid = codecs.call(hostile.pid)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(codecs.call, hostile.wait, str(tmp_path / "begun"))
        eventually((tmp_path / "begun").exists)
        codecs.close()
        with pytest.raises(Unavailable):
            waiting.result()
    eventually(lambda: not is_running(pid))
    with pytest.raises(Unavailable):
        codecs.call(hostile.pid)


def test_children_die_with_a_server_that_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent(
        f"""
        import sys
        from server.codecs import Codecs
        from tests import hostile

        codecs = Codecs(
            children=1, memory_bytes=1 << 28, seconds=600, packages=["tests"], preloaded=["tests.hostile"]
        )
        print(codecs.call(hostile.pid), codecs._forks._process.pid, flush=True)
        codecs.call(hostile.wait, {str(tmp_path / "begun")!r})
        """
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=REPOSITORY) as server:
        assert server.stdout is not None
        pids = [int(word) for word in server.stdout.readline().split()]
        assert len(pids) == 2
        eventually((tmp_path / "begun").exists)
        assert all(map(is_running, pids))
        server.kill()
    eventually(lambda: not any(map(is_running, pids)))


# Over HTTP


def test_a_frame_that_kills_its_decoder_is_406_and_the_server_goes_on(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.codecs.decode_frame", hostile.abort)
    monkeypatch.setattr("server.dicomweb.frames.transcode_frame", hostile.abort)
    bad = compressed(synthetic.ct_series(slices=1)[0], JPEGLSLossless, jpeg_ls)
    good = synthetic.ct_series(slices=1)[0]
    keep(client, bad, good)
    for path, accept in (
        ("/frames/1", NATIVE_FRAMES),
        ("/rendered", {"Accept": "image/png"}),
        ("/thumbnail", {"Accept": "image/jpeg"}),
    ):
        answer = client.get(url_of(bad) + path, headers=accept)
        assert answer.status_code == 406, path
        assert "Aborted" in answer.text
        assert answer.text.count("\n") == 1
    assert client.get(url_of(bad), headers=AS_STORED_PARTS).status_code == 200
    assert client.get(f"{url_of(good)}/frames/1", headers=NATIVE_FRAMES).status_code == 200
    assert 'readingroom_codec_losses_total{reason="crash"}' in client.get("/metrics").text


def test_what_a_request_or_a_plugin_asks_for_is_decoded_in_children_alone(
    room: Room, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This process has nothing left to read foreign bitstreams, documents and profiles with, and all is answered."""
    gray = compressed(synthetic.ct_series(slices=1)[0], JPEGLSLossless, jpeg_ls)
    moves = compressed(synthetic.cine(3), JPEGLSLossless, jpeg_ls)
    colour = compressed(synthetic.secondary_capture(ICCProfile=profile_of("adobergb")), JPEGLSLossless, jpeg_ls)
    document = synthetic.pdf_document(synthetic.a_pdf())
    keep(client, gray, moves, colour, document)
    for module, name in (
        *((imagecodecs, f"{codec}_decode") for codec in ("packbits", "jpeg8", "jpegls", "jpeg2k", "htj2k", "jpegxl")),
        (Image, "open"),
        (ImageCms, "ImageCmsProfile"),
        (pypdfium2, "PdfDocument"),
    ):
        monkeypatch.setattr(module, name, None)
    with pytest.raises(NotDicom):
        decode_frame(jpeg_ls(np.zeros((2, 2), np.uint8)), replace(ct_frame()[2], rows=2, columns=2))

    native, htj2k = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.201"
    parts = 'multipart/related; type="{}"'.format
    uri = {"studyUID": gray.StudyInstanceUID, "seriesUID": gray.SeriesInstanceUID, "objectUID": gray.SOPInstanceUID}
    asked = [
        *((gray, path, NATIVE_FRAMES["Accept"]) for path in ("/frames/1", "/pixeldata", "/bulkdata/7FE00010")),
        (gray, "/frames/1", parts("image/jphc")),
        (gray, "/frames/1", parts("image/jpeg")),
        *((gray, "", f"application/dicom; transfer-syntax={syntax}") for syntax in (native, htj2k)),
        (gray, "", f"application/zip; transfer-syntax={native}"),
        *((gray, "/rendered", kind) for kind in ("image/jpeg", "image/png", "image/gif", "image/jp2")),
        *((moves, "/rendered", kind) for kind in ("image/gif", "video/mp4", parts("image/png"))),
        (colour, "/rendered?iccprofile=srgb", "image/png"),
        (colour, "/thumbnail", "image/jpeg"),
        (document, "/rendered", "image/png"),
        (None, "/dicomweb/wado?requestType=WADO&contentType=image/png", "*/*"),
        (None, f"/dicomweb/wado?requestType=WADO&contentType=application/dicom&transferSyntax={native}", "*/*"),
    ]
    for dataset, path, accept in asked:
        url = url_of(dataset) + path if dataset is not None else f"{path}&{urlencode(uri)}"
        answer = client.get(url, headers={"Accept": accept})
        assert answer.status_code == 200, (url, accept, answer.text)
        assert answer.content
    shown = ShownStudies(room.engine, room.blobs, room.codecs, frozenset({("local", str(gray.StudyInstanceUID))}))
    os.close(shown.volume(gray.SeriesInstanceUID).fd)


def test_a_blank_slide_that_would_take_gigabytes_is_406(client: httpx.Client) -> None:
    slide = blank_slide()
    keep(client, slide)
    picture = client.get(f"{url_of(slide)}/rendered?viewport=64,64", headers={"Accept": "image/png"})
    assert picture.status_code == 413, "so large a picture is not even tried"
    assert client.get(f"{url_of(slide)}/frames/1", headers=NATIVE_FRAMES).status_code == 406
    assert client.get(url_of(slide), headers=AS_STORED_PARTS).status_code == 200
