"""Profiles: which fields of a sender's messages say what, as TOML files.

`default.toml` has everything; any other file has what is otherwise, and names are those of `default.toml`.
"""

from __future__ import annotations

import hashlib
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from readingroom.errors import Invalid, NotFound, ReadingRoomError
from readingroom.model import Priority
from server.hl7.parsing import read_path
from storage.catalog.orders import OrderState

_FOLDER = Path(__file__).parent
_MOST_BYTES = 1 << 20

Control = Literal["place", "hold", "release", "cancel", "status", "nothing"]
NOT_IMAGING = "not imaging"
"""What stands for a modality in the profile where an order of that section leads to nothing here."""


def _paths(paths: tuple[str, ...]) -> tuple[str, ...]:
    for one in paths:
        try:
            read_path(one)
        except ReadingRoomError as error:
            raise ValueError(error.message) from None
    return paths


Paths = Annotated[tuple[str, ...], AfterValidator(_paths)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PatientProfile(_Table):
    """Whose the message is."""

    preferred: tuple[str, ...]
    authority: Literal["namespace", "universal"]
    issuers: dict[str, str]


class OrderProfile(_Table):
    """What is asked for."""

    accession_number: Paths
    placer: Paths
    placer_space: Paths
    filler: Paths
    procedure_id: Paths
    step_id: Paths
    study_uid: Paths
    modality: Paths
    station_ae: Paths
    station_name: Paths
    code: Paths
    code_system: Paths
    procedure: Paths
    step_code: Paths
    step_code_system: Paths
    step: Paths
    reason: Paths
    priority: Paths
    starts: Paths
    ordered_at: Paths
    requester: Paths
    referrer: Paths
    priorities: dict[str, Priority]
    modalities: dict[str, str]
    controls: dict[str, Control]
    states: dict[str, OrderState]


class VisitProfile(_Table):
    """For which stay."""

    number: Paths


class AppointmentProfile(_Table):
    """When it is to be."""

    id: Paths
    accession_number: Paths
    starts: Paths
    minutes: Paths
    reason: Paths
    what: Paths
    code: Paths
    code_system: Paths


class Profile(_Table):
    """How messages of a sender are read; `edition` tells one state of its file from others."""

    name: str
    edition: str
    patient: PatientProfile
    order: OrderProfile
    visit: VisitProfile
    appointment: AppointmentProfile


def load_profile(name: str, folder: Path | None = None) -> Profile:
    """The profile of that name: one of an operator's folder, else one that comes with the server.

    Raises
    ------
    NotFound
        There is none.
    Invalid
        The file is no profile.
    """
    if not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise Invalid(f"{name[:40]!r} is no name of a profile.")
    for place in (folder, _FOLDER):
        path = place / f"{name}.toml" if place is not None else None
        if path is not None and path.is_file():
            usual = (_FOLDER / "default.toml").read_bytes()
            return _read(name, usual, path.read_bytes()[: _MOST_BYTES + 1])
    where = f" in {folder}, nor" if folder else ""
    raise NotFound(f"There is no profile {name!r}{where} among those that come with the server: ans, default.")


@lru_cache(maxsize=100)
def _read(name: str, usual: bytes, own: bytes) -> Profile:
    edition = hashlib.sha256(usual + own).hexdigest()[:8]
    try:
        told = _over(tomllib.loads(usual.decode()), tomllib.loads(own.decode()))
        return Profile.model_validate({**told, "name": name, "edition": edition})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise Invalid(f"The profile {name!r} is not right: {wrong}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"The profile {name!r} is no TOML: {error}.") from None


def _over(usual: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A table with what another says otherwise."""
    made = dict(usual)
    for key, value in own.items():
        is_table = isinstance(value, dict) and isinstance(made.get(key), dict)
        made[key] = _over(made[key], value) if is_table else value
    return made
