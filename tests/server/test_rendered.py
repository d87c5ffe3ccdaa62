"""Rendered images and thumbnails: parameters, pixel pipelines, what stands for a series (PS3.18 8.3.5, 10.4)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import httpx
import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom import FileDataset
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, JPEGBaseline8Bit, JPEGLSLossless

from tests import synthetic
from tests.multipart import parts_of
from tests.retrieve import in_syntax, keep, url_of
from tests.synthetic import cine, ct_series, secondary_capture

PNG = {"Accept": "image/png"}
JPEG = {"Accept": "image/jpeg"}
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def shown(client: httpx.Client, dataset: FileDataset, query: str = "", tail: str = "/rendered") -> np.ndarray:
    return picture(client.get(f"{url_of(dataset)}{tail}{query}", headers=PNG))


def gray_image(values: Sequence[Sequence[int]] | np.ndarray, dtype: str = "<i2", **attributes: Any) -> FileDataset:
    dataset = synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.7", Modality="OT", ConversionType="WSD")
    synthetic.set_pixels(dataset, np.asarray(values, dtype))
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


# -- the parameters --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "viewport=",
        "viewport=256",
        "viewport=0,256",
        "viewport=-1,256",
        "viewport=256,256.5",
        "viewport=256,x",
        "viewport=999999,10",
        "viewport=16384,16384",
        "viewport=10,10,0,0,5,5,5",
        "viewport=10,10,x",
        "viewport=10,10,,,0",
        "viewport=10,10,nan",
        "viewport=10,10,0,0,inf",
        "viewport=10,10,24,0",
        "viewport=10,10,0,1000",
        "window=",
        "window=40",
        "window=40,400",
        "window=40,400,",
        "window=40,400,cubic",
        "window=40,400,LINEAR",
        "window=40,400,linear,1",
        "window=,400,linear",
        "window=40,0,linear",
        "window=40,-400,linear",
        "window=40,0.5,linear",
        "window=40,0,linear-exact",
        "window=nan,400,linear",
        "window=1e999,400,linear",
        "quality=",
        "quality=0",
        "quality=101",
        "quality=50.5",
        "quality=x",
        "annotation=",
        "annotation=patient;technique",
    ],
)
def test_a_bad_value_is_refused(client: httpx.Client, chest_ct: list[FileDataset], query: str) -> None:
    """PS3.18 8.3.5.1: 400 (Bad Request)."""
    keep(client, chest_ct[0])
    answer = client.get(f"{url_of(chest_ct[0])}/rendered?{query}", headers=PNG)
    assert answer.status_code == 400
    assert answer.text.strip()


def test_an_unknown_parameter_is_ignored_and_an_unsupported_annotation_is_told(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    """PS3.18 8.3, 8.3.5.1.1."""
    keep(client, chest_ct[0])
    answer = client.get(f"{url_of(chest_ct[0])}/rendered?annotation=patient,barcode&odd=%zz&iccprofile=no", headers=PNG)
    assert answer.status_code == 200
    assert answer.headers["warning"].endswith('annotation values are not supported: barcode"')


def test_quality_makes_the_file_larger(client: httpx.Client, chest_ct: list[FileDataset]) -> None:
    """PS3.18 8.3.5.1.2: 100 is the best."""
    noise = gray_image(np.random.default_rng(3).integers(0, 255, (64, 64)), "u1")
    keep(client, noise)
    sizes = [
        len(client.get(f"{url_of(noise)}/rendered?quality={quality}", headers=JPEG).content) for quality in (1, 50, 100)
    ]
    assert sizes == sorted(set(sizes))


# -- grayscale -------------------------------------------------------------------------------------------------

VALUES = np.arange(-1100, 3000, 10)[:400].reshape(20, 20)


def by_the_book(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """PS3.3 C.11.2.1.2.1 and C.11.2.1.3 pixel by pixel, as the pseudo code there has it, for 0 to 255."""
    out = np.empty(values.shape)
    for place, x in np.ndenumerate(values):
        if function == "sigmoid":
            y = 255 / (1 + math.exp(min(-4 * (x - center) / width, 700)))
        elif function == "linear-exact":
            if x <= center - width / 2:
                y = 0
            elif x > center + width / 2:
                y = 255
            else:
                y = ((x - center) / width + 0.5) * 255
        elif x <= center - 0.5 - (width - 1) / 2:
            y = 0
        elif x > center - 0.5 + (width - 1) / 2:
            y = 255
        else:
            y = ((x - (center - 0.5)) / (width - 1) + 0.5) * 255
        out[place] = y
    return out


@pytest.mark.parametrize("function", ["linear", "linear-exact", "sigmoid"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600.5, 1500), (40, 1), (0, 4000)])
def test_a_window_is_applied_after_the_rescale(
    client: httpx.Client, center: float, width: float, function: str
) -> None:
    """PS3.18 8.3.5.1.4, PS3.4 N.2.1."""
    dataset = gray_image((VALUES + 1024) // 2, RescaleSlope=2, RescaleIntercept=-1024)
    keep(client, dataset)
    modality = (VALUES + 1024) // 2 * 2 - 1024
    got = shown(client, dataset, f"?window={center},{width},{function}")
    assert np.abs(got - by_the_book(modality, center, width, function)).max() <= 0.5001


@pytest.mark.parametrize(
    ("stated", "function"), [(None, "linear"), ("LINEAR_EXACT", "linear-exact"), ("SIGMOID", "sigmoid")]
)
def test_the_data_set_has_a_window_of_its_own(client: httpx.Client, stated: str | None, function: str) -> None:
    """PS3.3 C.11.2.1.2: of several, the first."""
    dataset = gray_image(VALUES, WindowCenter=[100, 40], WindowWidth=[500, 400])
    if stated:
        dataset.VOILUTFunction = stated
    keep(client, dataset)
    assert np.abs(shown(client, dataset) - by_the_book(VALUES, 100, 500, function)).max() <= 0.5001


def test_monochrome1_is_shown_with_its_low_values_bright(client: httpx.Client) -> None:
    """PS3.3 C.7.6.3.1.2."""
    dataset = gray_image([[0, 100], [200, 255]], "u1", PhotometricInterpretation="MONOCHROME1")
    keep(client, dataset)
    assert shown(client, dataset).tolist() == [[255, 155], [55, 0]]


@pytest.mark.parametrize(
    ("values", "dtype", "attributes", "expected"),
    [
        ([[0, 100], [200, 255]], "u1", {}, [[0, 100], [200, 255]]),
        ([[0, 10], [20, 40]], "<u2", {}, [[0, 64], [128, 255]]),
        ([[-2000, -20], [-10, 20]], "<i2", {"PixelPaddingValue": -2000}, [[0, 0], [64, 255]]),
        ([[7, 7], [7, 7]], "<u2", {}, [[0, 0], [0, 0]]),
        ([[0, 100000], [50000, 200000]], "<u4", {}, [[0, 128], [64, 255]]),
        ([[0, 5], [10, 10]], "<u2", {"WindowCenter": "", "WindowWidth": ""}, [[0, 128], [255, 255]]),
        ([[0, 5], [10, 10]], "<u2", {"WindowCenter": 5, "WindowWidth": 0}, [[0, 128], [255, 255]]),
    ],
)
def test_without_a_window_all_that_there_is_is_shown(
    client: httpx.Client, values: Any, dtype: str, attributes: dict[str, Any], expected: Any
) -> None:
    """8 bits as they are; more from the lowest to the highest value, without padding (PS3.3 C.7.5.1.1.2)."""
    dataset = gray_image(values, dtype, **attributes)
    keep(client, dataset)
    assert shown(client, dataset).tolist() == expected


def lookup_table(entries: np.ndarray, first: int, bits: int) -> Dataset:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    item.add_new("LUTData", "US", entries.tolist())
    return item


def test_lookup_tables_take_the_place_of_rescale_and_window(client: httpx.Client) -> None:
    """PS3.3 C.11.1, C.11.2."""
    dataset = gray_image([[0, 1], [2, 3]], "<u2")
    modality = lookup_table(np.array([40, 30, 20, 10]), 0, 16)
    modality.ModalityLUTType = "US"
    dataset.ModalityLUTSequence = [modality]
    dataset.VOILUTSequence = [lookup_table(np.array([0, 0x3333, 0x6666, 0xFFFF]), 38, 16)]
    keep(client, dataset)
    assert shown(client, dataset).tolist() == [[102, 0], [0, 0]]
    assert shown(client, dataset, "?window=20,21,linear").tolist() == [[255, 255], [134, 6]]


def test_a_table_that_is_broken_is_not_acceptable(client: httpx.Client) -> None:
    dataset = gray_image([[0, 1], [2, 3]], "<u2")
    dataset.VOILUTSequence = [lookup_table(np.array([1, 2]), 0, 3)]
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/rendered", headers=PNG)
    assert answer.status_code == 406
    assert "lookup table" in answer.text


def test_each_frame_has_its_own_window_in_the_functional_groups(client: httpx.Client) -> None:
    """PS3.3 C.7.6.16.2.9, C.7.6.16.2.10."""
    dataset = cine(2, rows=2, columns=2)
    dataset.PixelData = np.array([[0, 10, 20, 30]] * 2, "<u2").tobytes()
    groups = []
    for center in (10, 20):
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = center + 100, 20, "LINEAR_EXACT"
        group.FrameVOILUTSequence = [voi]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    shared, transformation = Dataset(), Dataset()
    transformation.RescaleIntercept, transformation.RescaleSlope, transformation.RescaleType = 100, 1, "US"
    shared.PixelValueTransformationSequence = [transformation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    keep(client, dataset)
    assert shown(client, dataset, tail="/frames/1/rendered").ravel().tolist() == [0, 128, 255, 255]
    assert shown(client, dataset, tail="/frames/2/rendered").ravel().tolist() == [0, 0, 128, 255]


def test_float_pixels_are_shown_too(client: httpx.Client) -> None:
    """PS3.3 C.7.6.24."""
    dataset = gray_image([[0, 0], [0, 0]], "<u4")
    for keyword in ("PixelData", "BitsStored", "HighBit", "PixelRepresentation"):
        del dataset[keyword]
    dataset.FloatPixelData = np.array([[0.0, 0.25], [np.nan, 1.0]], "<f4").tobytes()
    keep(client, dataset)
    assert shown(client, dataset).tolist() == [[0, 64], [0, 255]]


def test_big_endian_and_one_bit_pixels_are_shown(client: httpx.Client) -> None:
    big = in_syntax(gray_image([[0, 256], [512, 1024]], "<i2"), ExplicitVRBigEndian)
    bits = cine(3, rows=3, columns=4)
    bits.BitsAllocated = bits.BitsStored = 1
    bits.HighBit = 0
    pixels = np.random.default_rng(4).integers(0, 2, (3, 3, 4), np.uint8)
    bits.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes() + b"\0"
    bits["PixelData"].VR = "OB"
    keep(client, big, bits)
    assert shown(client, big).tolist() == [[0, 64], [128, 255]]
    assert np.array_equal(shown(client, bits, tail="/frames/2/rendered"), pixels[1] * 255)


# -- colour ----------------------------------------------------------------------------------------------------


def test_colours_are_kept_by_pixel_and_by_plane(client: httpx.Client) -> None:
    """PS3.3 C.7.6.3.1.3."""
    by_pixel, by_plane = secondary_capture(), secondary_capture()
    pixels = by_pixel.pixel_array
    by_plane.PlanarConfiguration = 1
    by_plane.PixelData = np.moveaxis(pixels, -1, 0).tobytes()
    keep(client, by_pixel, by_plane)
    assert np.array_equal(shown(client, by_pixel), pixels)
    assert np.array_equal(shown(client, by_plane), pixels)
    assert np.array_equal(shown(client, by_pixel, "?window=40,400,linear"), pixels), "a window is for grayscale"


def test_ybr_becomes_rgb(client: httpx.Client) -> None:
    """PS3.3 C.7.6.3.1.2: black, white, red as full-range YBR."""
    dataset = secondary_capture(1, 4, PhotometricInterpretation="YBR_FULL")
    dataset.PixelData = bytes([0, 128, 128, 255, 128, 128, 76, 85, 255, 128, 128, 128])
    keep(client, dataset)
    expected = np.array([[[0, 0, 0], [255, 255, 255], [254, 0, 0], [128, 128, 128]]])
    assert np.abs(shown(client, dataset).astype(int) - expected).max() <= 1


def test_a_compressed_colour_image_is_shown_in_its_colours(client: httpx.Client) -> None:
    dataset = secondary_capture(16, 16)
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = (200, 30, 60)
    pixels[8:] = (20, 180, 90)
    dataset.PixelData = encapsulate([bytes(imagecodecs.jpeg8_encode(pixels, level=95))])
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.PhotometricInterpretation = "YBR_FULL_422"
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    keep(client, dataset)
    assert np.abs(shown(client, dataset).astype(int) - pixels)[[2, 12]].max() < 12


@pytest.mark.parametrize(
    ("bits", "scale", "is_big"), [(16, 257, False), (16, 257, True), (8, 1, False)], ids=["16", "16 big", "8"]
)
def test_palette_colours_come_from_their_tables(client: httpx.Client, bits: int, scale: int, is_big: bool) -> None:
    """PS3.3 C.7.9."""
    dataset = gray_image([[5, 6], [7, 8]], "<u2", PhotometricInterpretation="PALETTE COLOR")
    tables = np.array([[255, 0, 9, 255], [0, 255, 9, 255], [0, 0, 9, 255]])
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        setattr(dataset, f"{colour}PaletteColorLookupTableDescriptor", [4, 5, bits])
        words = (table * scale).astype(f"{'>' if is_big else '<'}u2") if bits == 16 else table.astype("u1")
        setattr(dataset, f"{colour}PaletteColorLookupTableData", words.tobytes())
    keep(client, in_syntax(dataset, ExplicitVRBigEndian) if is_big else dataset)
    assert shown(client, dataset).reshape(4, 3).tolist() == tables.T.tolist()


def test_deep_colours_are_shown_with_eight_bits(client: httpx.Client) -> None:
    """PS3.18 8.7.4: no more than 8 bits per channel."""
    dataset = secondary_capture(1, 2)
    synthetic.set_pixels(dataset, np.array([[[0xFFFF, 0x8000, 0], [0x1234, 0x00FF, 0x0100]]], "<u2"))
    keep(client, dataset)
    assert shown(client, dataset).tolist() == [[[255, 128, 0], [0x12, 0, 1]]]


# -- region and scale ------------------------------------------------------------------------------------------

QUADRANTS = np.kron([[0, 80], [160, 240]], np.ones((8, 16))).astype("u1")  # 16 rows, 32 columns


@pytest.mark.parametrize(
    ("viewport", "size"),
    [
        ("64,64", (32, 64)),
        ("16,16", (8, 16)),
        ("1000,32", (32, 64)),
        ("1,1", (1, 1)),
        ("64,64,0,0,16,16", (64, 64)),
        ("64,64,,,16,16", (64, 64)),
        ("64,64,16", (64, 64)),
        ("64,64,0,8", (16, 64)),
        ("10,10,0,0,999,999", (5, 10)),
    ],
)
def test_the_picture_is_as_large_as_fits_without_distortion(
    client: httpx.Client, viewport: str, size: tuple[int, int]
) -> None:
    """PS3.18 8.3.5.1.3."""
    dataset = gray_image(QUADRANTS, "u1")
    keep(client, dataset)
    assert shown(client, dataset, f"?viewport={viewport}").shape == size


@pytest.mark.parametrize(
    ("viewport", "corners"),
    [
        ("32,16", [[0, 80], [160, 240]]),
        ("32,16,0,0,-32,16", [[80, 0], [240, 160]]),
        ("32,16,0,0,32,-16", [[160, 240], [0, 80]]),
        ("32,16,0,0,-32,-16", [[240, 160], [80, 0]]),
        ("16,8,16,8,16,8", [[240, 240], [240, 240]]),
        ("16,8,16,0", [[80, 80], [240, 240]]),
        ("16,16,8,0,16,16", [[0, 80], [160, 240]]),
        ("16,16,-8,-0,16.0,1.6e1", [[0, 80], [160, 240]]),
    ],
)
def test_a_region_is_cut_out_and_flipped(client: httpx.Client, viewport: str, corners: list[list[int]]) -> None:
    """PS3.18 8.3.5.1.3: negative sw mirrors, negative sh turns upside down; of sx and sy the absolute values count."""
    dataset = gray_image(QUADRANTS, "u1")
    keep(client, dataset)
    got = shown(client, dataset, f"?viewport={viewport}")
    assert [[got[0, 0], got[0, -1]], [got[-1, 0], got[-1, -1]]] == corners


def test_without_a_viewport_the_picture_has_the_size_of_the_image(client: httpx.Client) -> None:
    dataset = gray_image(QUADRANTS, "u1")
    keep(client, dataset)
    assert np.array_equal(shown(client, dataset), QUADRANTS)


# -- what is asked for and what comes --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "query", "media_type"),
    [
        (JPEG, "", "image/jpeg"),
        (PNG, "", "image/png"),
        ({"Accept": "*/*"}, "", "image/jpeg"),
        ({"Accept": "image/*"}, "", "image/jpeg"),
        (BROWSER, "", "image/jpeg"),
        (BROWSER, "?accept=image/png", "image/png"),
        (BROWSER, "?accept=image%2Fjpeg", "image/jpeg"),
        ({"Accept": "image/webp, image/png;q=0.2"}, "", "image/png"),
        ({"Accept": "image/jpeg;q=0.1, image/gif"}, "", "image/gif"),
    ],
)
@pytest.mark.parametrize("name", ["rendered", "thumbnail"])
def test_the_picture_is_of_the_type_agreed(
    client: httpx.Client, chest_ct: list[FileDataset], headers: dict[str, str], query: str, media_type: str, name: str
) -> None:
    """PS3.18 8.7.4, 8.7.8.1: image/jpeg is the default."""
    keep(client, *chest_ct)
    for level in ("series", "instance", *(["study"] if name == "thumbnail" else [])):
        answer = client.get(f"{url_of(chest_ct[0], level=level)}/{name}{query}", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == media_type
        assert Image.open(io.BytesIO(answer.content)).format == media_type.removeprefix("image/").upper()


@pytest.mark.parametrize("accept", ["image/webp", "video/mp4", "application/pdf", "text/html", "application/dicom"])
def test_a_single_image_is_a_picture_and_nothing_else(
    client: httpx.Client, chest_ct: list[FileDataset], accept: str
) -> None:
    """PS3.18 Table 8.7.4-1."""
    keep(client, chest_ct[0])
    for tail in ("/rendered", "/thumbnail", "/frames/1/rendered"):
        answer = client.get(url_of(chest_ct[0]) + tail, headers={"Accept": accept})
        assert answer.status_code == 406
        assert "image/jpeg" in answer.text


def test_what_has_nothing_to_be_seen_cannot_be_rendered(client: httpx.Client) -> None:
    """A plan of radiotherapy is neither image nor text; its thumbnail says what it is."""
    plan = synthetic.new_dataset("1.2.840.10008.5.1.4.1.1.481.5", Modality="RTPLAN")
    keep(client, plan)
    for level in ("study", "series", "instance"):
        answer = client.get(f"{url_of(plan, level=level)}/rendered")
        assert answer.status_code == 406
        assert "1.2.840.10008.5.1.4.1.1.481.5" in answer.text
        assert picture(client.get(f"{url_of(plan, level=level)}/thumbnail", headers=PNG)).shape == (128, 128)
    assert client.get(f"{url_of(plan)}/frames/1/rendered").status_code == 404


@pytest.mark.rooms("sqlite", "postgres", "s3")
def test_the_middle_image_stands_for_its_series_and_the_longest_series_for_the_study(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    """PS3.18 10.4.1.1.4: the origin server determines a meaningful representation; OHIF asks for a series so."""
    localizer = ct_series(2, study_uid=chest_ct[0].StudyInstanceUID, SeriesNumber=0)
    report = synthetic.text_report(StudyInstanceUID=chest_ct[0].StudyInstanceUID, SeriesNumber=2)
    keep(client, *reversed(chest_ct), *localizer, report)
    middle = shown(client, chest_ct[2], "?viewport=256,256")
    series = client.get(f"{url_of(chest_ct[0], level='series')}/rendered?viewport=256,256", headers=PNG)
    assert np.array_equal(picture(series), middle)
    assert middle.shape == (256, 192)
    of_its_study, of_its_image = (
        picture(client.get(f"{url_of(chest_ct[2], level=level)}/thumbnail", headers=PNG))
        for level in ("study", "instance")
    )
    assert np.array_equal(of_its_study, of_its_image)


def test_a_study_in_one_part_is_refused_where_that_would_hide_some_of_it(
    client: httpx.Client, chest_ct: list[FileDataset]
) -> None:
    """PS3.18 10.4.4: the note of Table 10.4.4-1."""
    alone, moves = secondary_capture(), cine(3)
    keep(client, *chest_ct[:2], alone, moves)
    of_two, of_one, of_frames = (f"{url_of(one, level='study')}/rendered" for one in (chest_ct[0], alone, moves))
    for media_type in ("image/jpeg", "image/gif", "video/mp4"):
        answer = client.get(of_two, headers={"Accept": media_type})
        assert answer.status_code == 406
        assert 'there is: multipart/related; type="image/jpeg"' in answer.text
    assert client.get(of_two, headers={"Accept": "*/*"}).headers["content-type"].startswith("multipart/related")
    assert np.array_equal(picture(client.get(of_one, headers=PNG)), shown(client, alone))
    assert client.get(of_frames, headers=JPEG).status_code == 406
    assert client.get(of_frames, headers={"Accept": "image/gif"}).headers["content-type"] == "image/gif"


def test_the_middle_frame_stands_for_a_multi_frame_image(client: httpx.Client) -> None:
    dataset = cine(5, WindowCenter=3, WindowWidth=6)
    keep(client, dataset)
    third = shown(client, dataset, tail="/frames/3/rendered")
    assert np.array_equal(shown(client, dataset), third)
    assert np.array_equal(
        shown(client, dataset, tail="/frames/3,1/thumbnail"), shown(client, dataset, tail="/thumbnail")
    )


def test_a_list_of_frames_is_rendered_in_parts_in_its_order(client: httpx.Client) -> None:
    """PS3.18 10.4.1.1.3, Table 10.4.4-1: several are not one part."""
    dataset = cine(3, WindowCenter=2, WindowWidth=3)
    keep(client, dataset)
    url = f"{url_of(dataset)}/frames/3,1/rendered"
    assert client.get(url, headers=JPEG).status_code == 406
    answer = client.get(url, headers={"Accept": 'multipart/related; type="image/png"'})
    assert answer.headers["content-type"].startswith('multipart/related; type="image/png"')
    parts = parts_of(answer)
    assert [headers["content-location"].partition("/frames/")[2] for headers, _ in parts] == [
        "3/rendered",
        "1/rendered",
    ]
    alone = [client.get(f"{url_of(dataset)}/frames/{n}/rendered", headers=PNG).content for n in (3, 1)]
    assert [body for _, body in parts] == alone


@pytest.mark.parametrize("level", ["study", "series"])
def test_a_whole_series_is_rendered_in_parts_for_who_asks_so(
    client: httpx.Client, chest_ct: list[FileDataset], level: str
) -> None:
    """PS3.18 10.4.1.1.3."""
    keep(client, *chest_ct)
    accept = {"Accept": 'multipart/related; type="image/jpeg"'}
    parts = parts_of(client.get(f"{url_of(chest_ct[0], level=level)}/rendered", headers=accept))
    assert len(parts) == len(chest_ct)
    assert {headers["content-type"] for headers, _ in parts} == {"image/jpeg"}
    assert client.get(f"{url_of(chest_ct[0], level=level)}/thumbnail", headers=accept).status_code == 406


@pytest.mark.parametrize(
    ("query", "size", "status"),
    [
        ("", (128, 96), 200),
        ("?viewport=64,64", (64, 48), 200),
        ("?viewport=64,64,0,0,10,10", None, 400),
        ("?viewport=x", None, 400),
        ("?window=1,2,nonsense&quality=0", (128, 96), 200),
    ],
)
def test_a_thumbnail_has_a_size_and_nothing_else_to_say(
    client: httpx.Client, chest_ct: list[FileDataset], query: str, size: tuple[int, int] | None, status: int
) -> None:
    """PS3.18 8.3.5.2: accept and viewport alone, without a region."""
    keep(client, chest_ct[0])
    for tail in ("/thumbnail", "/frames/1/thumbnail"):
        answer = client.get(url_of(chest_ct[0]) + tail + query, headers=PNG)
        assert answer.status_code == status
        assert status != 200 or picture(answer).shape == size


@pytest.mark.parametrize("tail", ["/rendered", "/thumbnail", "/frames/1/rendered", "/frames/1/thumbnail"])
def test_pictures_have_validators_ranges_and_heads(
    client: httpx.Client, chest_ct: list[FileDataset], tail: str
) -> None:
    """RFC 9110."""
    keep(client, *chest_ct)
    url = url_of(chest_ct[0]) + tail
    get, head = client.get(url, headers=PNG), client.head(url, headers=PNG)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(get.content)))
    etag = get.headers["etag"]
    assert client.get(url, headers={**PNG, "If-None-Match": etag}).status_code == 304
    assert client.get(url, headers={**JPEG, "If-None-Match": etag}).status_code == 200
    assert client.get(f"{url}?viewport=9,9", headers={**PNG, "If-None-Match": etag}).status_code == 200
    assert client.get(url, headers={**PNG, "Range": "bytes=1-3"}).content == b"PNG"
    assert client.get(url, headers=PNG).content == get.content, "made once, kept"


@pytest.mark.parametrize(("tail", "status"), [("/frames/0/rendered", 400), ("/frames/2/thumbnail", 404)])
def test_a_frame_that_is_none_has_no_picture(
    client: httpx.Client, chest_ct: list[FileDataset], tail: str, status: int
) -> None:
    keep(client, chest_ct[0])
    assert client.get(url_of(chest_ct[0]) + tail).status_code == status


def test_a_broken_bitstream_has_no_picture(client: httpx.Client) -> None:
    dataset = synthetic.encapsulated([b"nothing that decodes"])
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    keep(client, dataset)
    answer = client.get(f"{url_of(dataset)}/rendered")
    assert answer.status_code == 406
    assert "cannot be decoded" in answer.text
