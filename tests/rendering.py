"""Reads pydicom's data sets as the rendering does, and draws frames without a server."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from PIL import Image
from pydicom.dataset import Dataset

from server.rendering.item import Item
from server.rendering.lettering import Lettering
from server.rendering.look import Look
from server.rendering.picture import Drawn, Frame, draw
from storage.arrays import ArraySpec
from storage.icc import converted

UID = "1.2.3.4"


def item_of(dataset: Dataset) -> Item:
    """A data set as the catalog would give it, with all its bytes inline."""
    return Item(orjson.loads(orjson.dumps(dataset.to_json_dict(bulk_data_threshold=1 << 30))), lambda _: b"")


def drawn(
    values: np.ndarray[Any, Any],
    *,
    look: Look | None = None,
    image: Dataset | None = None,
    state: Dataset | None = None,
    photometric: str = "MONOCHROME2",
    number: int = 1,
) -> Drawn:
    """A frame of stored values as a picture; of colors where it has three samples."""
    is_colour = values.ndim == 3
    spec = ArraySpec(
        transfer_syntax="1.2.840.10008.1.2.1",
        rows=values.shape[0],
        columns=values.shape[1],
        samples=3 if is_colour else 1,
        bits_allocated=8 * values.dtype.itemsize,
        bits_stored=8 * values.dtype.itemsize,
        signed=values.dtype.kind == "i",
        planar_configuration=0,
        photometric="RGB" if is_colour else photometric,
        frames=1,
        pixel_element="7FE00010",
        pixel_vr="OW",
        encoding="native",
    )
    frame = Frame(
        values=values,
        spec=spec,
        photometric=spec.photometric,
        dataset=item_of(image or Dataset()),
        instance_uid=UID,
        number=number,
    )
    return draw(frame, look or Look(), item_of(state) if state else None, Lettering(), converted)


def pixels(drawn: Drawn) -> np.ndarray[Any, Any]:
    """The pixels of a picture."""
    return np.asarray(drawn.image)


def image_of(pixels: np.ndarray[Any, Any]) -> Image.Image:
    """A picture of pixels."""
    return Image.fromarray(pixels)
