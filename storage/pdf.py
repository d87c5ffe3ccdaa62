"""A page of a PDF as a picture. PDFium reads foreign bytes in C++: to be called where a crash costs little."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from readingroom.errors import NotDicom

_PIXELS_A_POINT = 1.5  # 108 a inch
_MAX_SIDE = 8192


def first_page(document: bytes, box: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """The first page in RGB, on white.

    Parameters
    ----------
    box
        Width and height of what the page is fitted into; by default it has 108 pixels an inch.

    Raises
    ------
    NotDicom
        It is no PDF, is encrypted, or has no pages.
    """
    import pypdfium2  # here, so that only who reads a PDF loads PDFium

    try:
        pdf = pypdfium2.PdfDocument(document)  # type: ignore[no-untyped-call]
        try:
            page = pdf[0]
            width, height = page.get_size()
            if not (width > 0 and height > 0):
                raise NotDicom("the page of the PDF has no size")
            wanted = box or (round(width * _PIXELS_A_POINT), round(height * _PIXELS_A_POINT))
            scale = min(min(wanted[0], _MAX_SIDE) / width, min(wanted[1], _MAX_SIDE) / height)
            bitmap = page.render(scale=scale, rev_byteorder=True, prefer_bgrx=False)
            pixels: NDArray[np.uint8] = np.array(bitmap.to_numpy()[..., :3])
        finally:
            pdf.close()  # type: ignore[no-untyped-call]
    except (pypdfium2.PdfiumError, IndexError, ValueError, OSError) as error:
        raise NotDicom(f"the PDF cannot be shown: {str(error)[:100]}") from None
    if box:
        pixels = pixels[: box[1], : box[0]]
    return pixels
