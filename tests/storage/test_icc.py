"""ICC profiles made here: what LittleCMS makes of them, against the definitions of the color spaces."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import ImageCms

from readingroom.errors import NotAcceptable
from storage.icc import Space, converted, profile_of

SPACES: tuple[Space, ...] = ("srgb", "adobergb", "rommrgb")
PATCHES = np.array(
    [[[0, 0, 0], [255, 255, 255], [128, 128, 128], [255, 0, 0], [0, 255, 0], [0, 0, 255], [60, 120, 200]]], np.uint8
)


@pytest.mark.parametrize("space", SPACES)
def test_a_profile_is_one_that_littlecms_reads(space: Space) -> None:
    profile = ImageCms.ImageCmsProfile(io.BytesIO(profile_of(space))).profile
    assert (profile.device_class, profile.xcolor_space, profile.connection_space) == ("mntr", "RGB ", "XYZ ")
    assert profile.profile_description
    assert profile.is_matrix_shaper
    total = np.sum([profile.red_colorant[0], profile.green_colorant[0], profile.blue_colorant[0]], axis=0)
    assert np.abs(total - (0.9642, 1.0, 0.8249)).max() < 0.001, "the primaries add up to white"


@pytest.mark.parametrize("space", SPACES)
def test_grays_stay_gray_and_white_stays_white(space: Space) -> None:
    out = converted(PATCHES, b"", space)[0, :3].astype(int)
    assert np.abs(out - out[:, :1]).max() <= 1
    assert (out[0].max(), out[1].min()) == (0, 255)


def test_our_srgb_is_that_of_littlecms() -> None:
    theirs = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.abs(converted(PATCHES, theirs, "srgb").astype(int) - PATCHES).max() <= 1


def test_srgb_becomes_adobe_rgb_by_the_definitions() -> None:
    """Adobe RGB (1998) 4.3: its red and blue are those of sRGB, its gamma is 2.19921875."""
    out = converted(PATCHES, b"", "adobergb").astype(int)[0]
    linear_gray = ((128 / 255 + 0.055) / 1.055) ** 2.4
    assert abs(out[2, 0] - 255 * linear_gray ** (256 / 563)) <= 1
    # sRGB red through both matrices of primaries (D65): 0.7152, 0, 0 in linear light.
    assert np.abs(out[3] - (255 * 0.7152 ** (256 / 563), 0, 0)).max() <= 2


@pytest.mark.parametrize(("space", "loss"), [("adobergb", 2), ("rommrgb", 8)])
def test_there_and_back_is_where_one_was(space: Space, loss: int) -> None:
    """But for what 8 bits of a wide space cannot tell apart."""
    there = converted(PATCHES, b"", space)
    assert np.abs(there.astype(int) - PATCHES).max() > 20
    assert np.abs(converted(there, profile_of(space), "srgb").astype(int) - PATCHES).max() <= loss


def test_without_a_profile_srgb_is_left_alone() -> None:
    assert converted(PATCHES, b"", "srgb") is PATCHES


@pytest.mark.parametrize("source", [b"no profile", profile_of("srgb")[:200], bytes(200)])
def test_a_broken_profile_is_not_acceptable(source: bytes) -> None:
    with pytest.raises(NotAcceptable, match="ICC profile"):
        converted(PATCHES, source, "srgb")


def test_a_profile_of_other_colors_is_not_acceptable() -> None:
    gray = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    with pytest.raises(NotAcceptable, match="ICC profile"):
        converted(PATCHES, gray, "srgb")
