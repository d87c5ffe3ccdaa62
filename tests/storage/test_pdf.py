"""The first page of a PDF as a picture."""

from __future__ import annotations

import numpy as np
import pytest

from readingroom.errors import NotDicom
from storage.pdf import first_page
from tests.synthetic import a_pdf


def test_the_page_is_drawn_on_white() -> None:
    page = first_page(a_pdf())
    assert page.shape == (150, 300, 3), "200 x 100 points at 108 an inch"
    assert page[5, 5].tolist() == [255, 255, 255]
    assert page[75, 75].tolist() == [255, 0, 0], "a red square from 40, 40 to 60, 60, counted from below"
    assert page[75, 150].tolist() == [255, 255, 255]


@pytest.mark.parametrize(("box", "shape"), [((100, 100), (50, 100)), ((1000, 20), (20, 40)), ((1, 1), (1, 1))])
def test_the_page_is_fitted_into_a_box(box: tuple[int, int], shape: tuple[int, int]) -> None:
    page = first_page(a_pdf(), box)
    assert page.shape[1] <= box[0]
    assert page.shape[0] <= box[1]
    assert np.abs(np.subtract(page.shape[:2], shape)).max() <= 1


@pytest.mark.parametrize("document", [b"", b"%PDF-1.4\n%%EOF\n", b"GIF89a" * 100, a_pdf()[:40], a_pdf(pages=0)])
def test_what_is_no_pdf_with_a_page_is_told(document: bytes) -> None:
    with pytest.raises(NotDicom, match="cannot be shown"):
        first_page(document)


def test_a_page_without_measure_is_bounded() -> None:
    assert max(first_page(a_pdf(width=1_000_000, height=10)).shape) <= 8193
