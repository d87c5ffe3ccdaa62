"""How long each frame of a moving picture is shown (PS3.3 C.7.6.5, C.7.6.16.2.2)."""

from __future__ import annotations

from collections.abc import Sequence

from server.rendering.item import Item

_DEFAULT = 100.0
_SHORTEST, _LONGEST = 1.0, 10_000.0


def milliseconds_of(dataset: Item, numbers: Sequence[int]) -> list[float]:
    """How long frames are shown, in their order: by the vector of times, else all alike, at last 100 ms each."""
    vector = dataset.numbers("FrameTimeVector")
    if len(vector) == (dataset.whole("NumberOfFrames") or 1):
        # Each value is the time since the frame before; the last frame has none after it and stays as long.
        return [_bounded(vector[number] if number < len(vector) else vector[-1]) for number in numbers]
    time = dataset.number("FrameTime")
    if not time:
        rate = dataset.number("CineRate") or dataset.number("RecommendedDisplayFrameRate")
        time = 1000 / rate if rate and rate > 0 else _DEFAULT
    return [_bounded(time)] * len(numbers)


def _bounded(milliseconds: float) -> float:
    return min(max(milliseconds, _SHORTEST), _LONGEST) if milliseconds > 0 else _DEFAULT
