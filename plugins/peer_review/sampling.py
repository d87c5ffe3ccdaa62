"""Which readings are reviewed: some because of what they are, and of the rest a share that chance takes.

The readings of one reader, modality and facility are counted. At a rate of 5 % one of each twenty of them is taken:
which one, the hash of its number with a seed of the site says. So the same reading is always taken, or never, however
often it is asked; nobody who does not know the seed can tell which; and the share is the rate among few readings
already, where a coin that is tossed for each is off by more than half a point in ten thousand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from math import ceil, floor
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from readingroom import Report

_SPACE = 1 << 48
_LEAST = 0.001


def _rate(rate: float) -> float:
    if rate and not _LEAST <= rate <= 1:
        raise ValueError(f"a rate is 0, or from {_LEAST} to 1")
    return rate


Rate = Annotated[float, AfterValidator(_rate)]


class Stratum(BaseModel):
    """A rate of its own for the readings to which all holds that it names; what is empty is any."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: Rate
    readers: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ()
    facilities: tuple[str, ...] = ()

    def holds_for(self, report: Report, reader: str) -> bool:
        """Whether a reading belongs to it."""
        return (
            (not self.readers or reader in self.readers)
            and (not self.modalities or not frozenset(self.modalities).isdisjoint(report.modalities))
            and (not self.facilities or report.facility in self.facilities)
        )


class PeerReviewSettings(BaseModel):
    """The settings of the sampling."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rate: Rate = Field(0.03, description="the share of all readings that no stratum is for")
    seed: SecretStr = Field(SecretStr(""), description="what chance begins with: a text that readers do not know")
    strata: tuple[Stratum, ...] = Field(
        (), description="rates of readers, modalities and facilities; the first that a reading belongs to counts"
    )
    first_of_new_readers: int = Field(0, ge=0, description="all of the first so many readings of a reader")
    corrected: bool = Field(True, description="whether a report that was corrected is reviewed")
    discrepant: bool = Field(True, description="whether one is whose final text differs much from the preliminary one")
    critical: bool = Field(False, description="whether one with a critical result is")


def reason_for(
    report: Report, reader: str, read_before: int, alike_before: int, settings: PeerReviewSettings
) -> str | None:
    """Why a reading is to be reviewed; None where it is not."""
    return next(_rules(report, read_before, settings), None) or _by_chance(report, reader, alike_before, settings)


def rate_of(report: Report, reader: str, settings: PeerReviewSettings) -> float:
    """The share of such readings that chance takes."""
    stratum = next((one for one in settings.strata if one.holds_for(report, reader)), None)
    return settings.rate if stratum is None else stratum.rate


def _rules(report: Report, read_before: int, settings: PeerReviewSettings) -> Iterator[str]:
    if settings.corrected and report.kind == "correction":
        yield "the report was corrected"
    if settings.discrepant and report.discrepancy == "major":
        yield "the final report differs much from the preliminary one"
    if settings.critical and report.critical_results:
        yield "it tells of a critical result"
    if read_before < settings.first_of_new_readers:
        yield f"it is one of the first {settings.first_of_new_readers} readings of its reader"


def _by_chance(report: Report, reader: str, number: int, settings: PeerReviewSettings) -> str | None:
    """Take reading `number`, from 0 on, if it is among those of its block whose hashes are the lowest.

    A block has as many readings as one is taken of, and how many are taken of the blocks up to any of them is the rate
    of their readings, but for less than one.
    """
    rate = rate_of(report, reader, settings)
    if rate == 0:
        return None
    modality = next(iter(report.modalities), "")

    def drawn(number: int) -> float:
        told = "\n".join((settings.seed.get_secret_value(), reader, modality, report.facility, str(number)))
        return int.from_bytes(hashlib.sha256(told.encode()).digest()[:6]) / _SPACE

    size = ceil(1 / rate)
    first = number - number % size
    start = drawn(-1)  # where the count begins, so that not every reader's first block is without one
    wanted = floor((first + size) * rate + start) - floor(first * rate + start)
    lowest = sorted(range(first, first + size), key=drawn)[:wanted]
    return f"chance, at a rate of {rate:.1%}" if number in lowest else None
