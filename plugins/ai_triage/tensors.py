"""Pixels of a series as the tensors that a model wants, and its answer as probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from readingroom import GiveUp

from .settings import InputTable, OutputTable

type Tensor = NDArray[np.float32]


def prepared(values: NDArray[Any], wanted: InputTable, *, is_inverted: bool = False) -> Iterator[Tensor]:
    """The tensors to ask a model about, in slice order.

    Parameters
    ----------
    values
        In the unit of the modality, shape ``(frames, rows, columns)``.
    is_inverted
        Whether low values are shown bright (MONOCHROME1).
    """
    if wanted.layout == "volume":
        whole = _scaled(values, wanted, is_inverted=is_inverted)
        shape = (wanted.slices or len(whole), wanted.rows, wanted.columns)
        yield _with_channels(_resized(whole, shape)[None], wanted.channels)
        return
    for first in range(0, len(values), wanted.batch):
        part = values[first : first + wanted.batch]
        slices = [
            _resized(_scaled(image, wanted, is_inverted=is_inverted), (wanted.rows, wanted.columns)) for image in part
        ]
        yield _with_channels(np.stack(slices), wanted.channels)


def probabilities(answer: NDArray[Any], samples: int, output: OutputTable) -> NDArray[np.float64]:
    """One probability a sample.

    Raises
    ------
    GiveUp
        The answer has another shape than the settings say, or holds what is no probability.
    """
    if not answer.size or answer.size % samples or not np.issubdtype(answer.dtype, np.number):
        raise GiveUp(
            f"The model answers {answer.size} values to {samples} samples; one or more for each would be right."
        )
    classes = answer.reshape(samples, -1).astype(np.float64)
    if output.index >= classes.shape[1]:
        raise GiveUp(f"The model answers {classes.shape[1]} values a sample; there is none of index {output.index}.")
    if not np.isfinite(classes).all():
        raise GiveUp("The model answers what is no number.")
    if output.activation == "softmax":
        raised = np.exp(classes - classes.max(axis=1, keepdims=True))
        classes = raised / raised.sum(axis=1, keepdims=True)
    chosen = classes[:, output.index]
    if output.activation == "sigmoid":
        chosen = 1 / (1 + np.exp(-np.clip(chosen, -60, 60)))
    if chosen.min() < 0 or chosen.max() > 1:
        raise GiveUp("The model answers values outside 0 to 1; is an activation missing in the settings of its output?")
    return chosen


def _scaled(values: NDArray[Any], wanted: InputTable, *, is_inverted: bool) -> Tensor:
    given = values.astype(np.float32)
    low = float(given.min()) if wanted.low is None else wanted.low
    high = float(given.max()) if wanted.high is None else wanted.high
    scaled = np.clip((given - low) / max(high - low, 1e-6), 0, 1)
    if is_inverted:
        scaled = 1 - scaled
    return np.asarray((scaled - wanted.mean) / wanted.deviation, np.float32)


def _resized(values: Tensor, shape: tuple[int, ...]) -> Tensor:
    if values.shape == shape:
        return values
    factors = [wanted / given for wanted, given in zip(shape, values.shape, strict=True)]
    # Whatever gets smaller is blurred first, else fine lines turn into a pattern.
    blurred = ndimage.gaussian_filter(values, [max(0.0, (1 / factor - 1) / 2) for factor in factors])
    return np.asarray(ndimage.zoom(blurred, factors, order=1, mode="nearest", grid_mode=True), np.float32)


def _with_channels(values: Tensor, channels: int) -> Tensor:
    return np.ascontiguousarray(np.repeat(values[:, None], channels, axis=1))
