"""Settings: a TOML file and ``READINGROOM_`` environment variables; the environment wins."""

from __future__ import annotations

import os
from collections.abc import Collection
from datetime import time, timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_core import to_jsonable_python
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from readingroom.errors import ReadingRoomError
from readingroom.model import Permission, Priority
from readingroom.outbound import Origin

if TYPE_CHECKING:
    from storage.catalog.keys import Key
    from storage.directory import Opening


class SearchAttribute(BaseModel):
    """An attribute that searches shall match, and answers may have, beside those that they always do."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attribute: str
    creator: str = ""
    vr: str = ""
    level: Literal["study", "series", "instance"] | None = None

    @property
    def key(self) -> Key:
        """What the catalog knows of it; raises `Invalid` where it cannot be matched."""
        from storage.catalog.keys import configured_key  # here: it takes a while, and help needs none of it

        return configured_key(self.attribute, creator=self.creator, vr=self.vr, level=self.level)

    @model_validator(mode="after")
    def _can_be_matched(self) -> SearchAttribute:
        try:
            _ = self.key
        except ReadingRoomError as error:
            raise ValueError(error.message) from None
        return self


_ClientId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]

_Modality = Annotated[str, Field(pattern=r"^[A-Z0-9_ ]{1,16}$")]
"""A value of Modality (0008,0060), which is a CS."""


def _spelled_out(attribute: Any) -> Any:
    return {"attribute": attribute} if isinstance(attribute, str) else attribute


class CoercionRule(BaseModel):
    """What is changed of every object that a facility gets from a source, as it comes; the received bytes are kept.

    Attributes are named by keyword or tag, and values written as text: several parted by a backslash, the groups of a
    name by ``=``. ``*`` and ``?`` in `facility` and `source` stand for anything.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    facility: str = "*"
    source: str = "*"
    trim: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()
    set: dict[str, str] = {}
    default: dict[str, str] = {}
    prefix: dict[str, str] = {}

    @model_validator(mode="after")
    def _is_right(self) -> CoercionRule:
        from storage.coercion import Coercion  # here, so that settings without rules need not load the dictionary

        try:
            Coercion.of(**self.model_dump())
        except ReadingRoomError as error:
            raise ValueError(error.message) from None
        return self


class PluginSettings(BaseModel):
    """The table ``[plugins.NAME]``: what the server itself reads there. The rest is for the plugin's own model."""

    model_config = ConfigDict(extra="allow", frozen=True)

    enabled: bool = Field(True, description="false: it is known, and does not run")
    trusted: bool = Field(False, description="true: it runs in the server's own process, and may do whatever that may")
    python: str | None = Field(None, description="Interpreter that it is installed for; default: the server's")
    module: str | None = Field(None, description="File or folder of a plugin without an entry point")
    network: bool = Field(False, description="Whether it may open connections")
    subprocesses: bool = Field(False, description="Whether it may start other programs")
    readable: tuple[str, ...] = Field((), description="Files and folders that it may read, such as its models")
    writable: tuple[str, ...] = Field((), description="Files and folders that it may write, and devices that it uses")
    memory_bytes: int = Field(4 << 30, ge=64 << 20, description="Address space of each of its processes")
    seconds: float | None = Field(
        None, gt=0, le=3600, description="Limit of a call from the queue; default: the hook's"
    )
    milliseconds: int | None = Field(
        None, gt=0, le=10_000, description="Limit of a call that somebody waits for; default: the hook's"
    )
    processes: int = Field(1, ge=1, le=32, description="How many calls from the queue it takes at once")
    environment: dict[str, str] = Field({}, description="Environment variables of its process")
    on_error: Literal["ignore", "reject"] = Field(
        "ignore", description="What becomes of an object where accept_instance fails: stored, or refused"
    )

    @property
    def own(self) -> dict[str, Any]:
        """What is for the plugin itself."""
        told: dict[str, Any] = to_jsonable_python(self.model_extra or {})
        return told


class ClientSettings(BaseModel):
    """The table ``[clients.NAME]``: a program that may have tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = Field(None, description="What people call it; default: its id")
    jwks: Path | None = Field(None, description="File with its public keys, a JSON Web Key Set")
    jwks_uri: str | None = Field(None, description="Where it publishes them instead")
    scopes: str = Field(description="All that it may be granted, with spaces between them")
    facilities: tuple[str, ...] | Literal["*"] = Field(description="Whose data it may see; `*` for all")
    facility: str | None = Field(None, description="Owner of what it writes; default: its only facility")
    may: tuple[Permission, ...] = Field((), description="Its permissions: `remove`, `correct`, `original`, `supervise`")
    patient: str | None = Field(None, description="Id of the FHIR Patient that its `patient/` scopes are for")


_Ae = Annotated[str, Field(pattern=r"^[\x21-\x5b\x5d-\x7e](?:[\x20-\x5b\x5d-\x7e]{0,14}[\x21-\x5b\x5d-\x7e])?$")]
"""An AE title (PS3.5 6.2): up to 16 characters without a backslash, no space at its ends."""


class DimsePeer(BaseModel):
    """The table ``[dimse.peers.NAME]``: who may call or is called, and whose work that is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ae: _Ae = Field(description="Its AE title")
    facility: str | None = Field(default=None, description="Owner of what it stores; default: that of the server")
    may_store: bool = Field(default=True, description="Whether it may store")
    may_find: bool = Field(default=True, description="Whether it may ask what is there (C-FIND)")
    may_move: bool = Field(default=True, description="Whether it may retrieve (C-GET, C-MOVE)")
    sees_all: bool = Field(default=False, description="Whether it finds what all facilities have; default: its own")
    wants_availability: bool = Field(
        default=False,
        description="Whether it is told of each study that is complete (Instance Availability Notification)",
    )
    host: str | None = Field(default=None, description="Where it is called; default: it is never called, it only calls")
    port: int = Field(default=104, ge=1, le=65535, description="Port where it is called")
    tls: bool = Field(default=False, description="Whether it is called by TLS")
    ca: Path | None = Field(
        default=None, description="PEM file of who signs its certificate; default: those known here"
    )


class DimseSettings(BaseModel):
    """The table ``[dimse]``: how modalities and archives reach this server by DIMSE."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ae_title: _Ae = Field(default="READINGROOM", description="AE title of this server")
    host: str = Field(
        default="127.0.0.1",
        description="Address to bind; another than loopback needs TLS with certificates of the peers, or named callers",
    )
    port: int | None = Field(
        default=None, ge=0, le=65535, description="Port to bind, 104 or 11112 by custom; default: none"
    )
    peers: dict[str, DimsePeer] = Field(
        default={}, description="Who may call, and who is called, by a name of your choice"
    )
    any_caller: bool = Field(default=False, description="Whether AE titles that are no peer's may call and store too")
    any_called: bool = Field(default=False, description="Whether callers may call this server by any other title")
    certificate: Path | None = Field(
        default=None, description="PEM file of the server's certificate: with it, only TLS"
    )
    key: Path | None = Field(default=None, description="PEM file of its key; default: it is in the same file")
    client_ca: Path | None = Field(
        default=None, description="PEM file of who signs the certificates that peers have to show"
    )
    max_associations: int = Field(default=100, ge=1, le=10_000, description="Connections at once")
    max_per_address: int = Field(default=25, ge=1, le=10_000, description="The same from one address")
    pdu_seconds: float = Field(default=30.0, gt=0, description="A PDU that has begun to come has to be there by then")
    idle_seconds: float = Field(default=600.0, gt=0, description="An association without a message is ended then")


class Hl7Sender(BaseModel):
    """The table ``[hl7.senders.NAME]``: who may send HL7 messages, whose work that is, and how they are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    application: str = Field(description="Its MSH-3.1, the sending application")
    sends_for: str | None = Field(default=None, description="Its MSH-4.1, the sending facility; default: any")
    networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        default=(), description="Where it may call from; default: anywhere"
    )
    common_name: str | None = Field(
        default=None, description="Common name of the certificate that it has to show; default: any"
    )
    facility: str | None = Field(default=None, description="Owner of what it sends; default: that of the server")
    profile: str = Field(
        default="default", description="How its messages are read: `default`, `ans`, or a file of hl7.profiles"
    )
    issuers: dict[str, str] = Field(
        default={},
        description="Issuers of patient ids by assigning authority (PID-3.4), beside those of the profile; `*`: any",
    )
    takes_tests: bool = Field(
        default=False, description="Whether what is no production message (MSH-11 T or D) is applied too"
    )
    reuses_control_ids: bool = Field(
        default=False, description="Whether another message under a control id that was there is one more message"
    )


class Hl7Settings(BaseModel):
    """The table ``[hl7]``: how information systems send orders and patients by HL7 version 2."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(
        default="127.0.0.1", description="Address to bind; another than loopback needs named senders or certificates"
    )
    port: int | None = Field(default=None, ge=0, le=65535, description="Port to bind, 2575 by custom; default: none")
    senders: dict[str, Hl7Sender] = Field(default={}, description="Who may send, by a name of your choice")
    profiles: Path | None = Field(default=None, description="Folder of further profiles, NAME.toml")
    any_sender: bool = Field(default=False, description="Whether those that are not named may send too")
    certificate: Path | None = Field(
        default=None, description="PEM file of the server's certificate: with it, only TLS (MLLPS)"
    )
    key: Path | None = Field(default=None, description="PEM file of its key; default: it is in the same file")
    client_ca: Path | None = Field(
        default=None, description="PEM file of who signs the certificates that senders have to show"
    )
    max_connections: int = Field(default=100, ge=1, le=10_000, description="Connections at once")
    max_per_address: int = Field(default=25, ge=1, le=10_000, description="The same from one address")
    max_message_bytes: int = Field(default=4 << 20, ge=1 << 10, description="Largest message")
    frame_seconds: float = Field(default=30.0, gt=0, description="A message that has begun has to be there by then")
    idle_seconds: float = Field(default=3600.0, gt=0, description="A connection without a message is closed then")


_LEAST_KILOBYTES = 8


class EdgeHours(BaseModel):
    """The table ``[[edge.hours]]``: how much may go to the centre at some hours, by the clock of the edge's zone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: str = Field(default="mon-sun", description="Days, such as mon-fri or sat, sun")
    starts: str = Field(description="When they begin, such as 08:00")
    ends: str = Field(description="When they end; not after the beginning: on the next day")
    kilobytes_per_second: float = Field(
        ge=0, description="What may go then, in kB (1000 bytes) a second; 0: only what goes first"
    )

    @property
    def opening(self) -> Opening:
        """The hours; raises ValueError where they are none."""
        from storage.directory import Opening  # here: it takes a while, and others need none of it

        return Opening.model_validate({"days": self.days, "starts": self.starts, "ends": self.ends})

    @model_validator(mode="after")
    def _are_hours(self) -> EdgeHours:
        _ = self.opening
        if 0 < self.kilobytes_per_second < _LEAST_KILOBYTES:
            raise ValueError(f"less than {_LEAST_KILOBYTES} kB a second would end no request in time; 0 sends nothing")
        return self


class EdgeSettings(BaseModel):
    """The table ``[edge]``: what `readingroom edge` does at a site. Who may call it is in ``[dimse]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    centre: str | None = Field(
        default=None, description="Root of the centre's DICOMweb, such as https://images.example.org/dicomweb/f/mercy"
    )
    folder: Path = Field(default=Path("var/edge"), description="Folder of the spool, on a disk of this machine")
    token: str = Field(default="", description="Variable of the environment that has a bearer token for the centre")
    token_url: str = Field(default="", description="Where the centre gives tokens (SMART Backend Services) instead")
    client_id: str = Field(default="", description="Who this site is there")
    client_key: Path | None = Field(default=None, description="File of its private key, a JWK of RSA or P-384")
    scope: str = Field(default="system/ImagingStudy.crs", description="What the token is for")
    ca: Path | None = Field(default=None, description="PEM file of who signs the centre's certificate")
    certificate: Path | None = Field(
        default=None, description="PEM file of the certificate that is shown to the centre"
    )
    key: Path | None = Field(default=None, description="PEM file of its key; default: it is in the same file")
    most_bytes: int = Field(default=200 << 30, gt=0, description="What may wait; more is refused with A700")
    least_free_bytes: int = Field(default=1 << 30, ge=0, description="What stays free of the disk")
    connections: int = Field(default=4, ge=1, le=64, description="Connections to the centre at once")
    batch_instances: int = Field(default=100, ge=1, le=1000, description="Objects of one request")
    batch_bytes: int = Field(default=8 << 20, gt=0, description="Bytes of one request, but for one larger object")
    first_aes: tuple[str, ...] = Field(default=(), description="AE titles whose objects go first, as of a STAT scanner")
    first_modalities: tuple[_Modality, ...] = Field(default=(), description="Modalities whose objects go first")
    kilobytes_per_second: float | None = Field(
        default=None, ge=_LEAST_KILOBYTES, description="What may go, in kB (1000 bytes) a second; default: all that can"
    )
    hours: tuple[EdgeHours, ...] = Field(
        default=(), description="The same at some hours; what goes first is not held up"
    )
    zone: str = Field(default="UTC", description="Time zone of these hours, such as America/Chicago")
    confirm: bool = Field(
        default=False, description="Whether the centre is asked for each object (QIDO-RS) before it leaves the spool"
    )
    retry_seconds: float = Field(default=60.0, gt=0, description="Longest time between two attempts in an outage")

    @model_validator(mode="after")
    def _is_whole(self) -> EdgeSettings:
        smart = [bool(one) for one in (self.token_url, self.client_id, self.client_key)]
        if any(smart) and (not all(smart) or self.token):
            raise ValueError("token_url, client_id and client_key come together, and without token")
        if self.key is not None and self.certificate is None:
            raise ValueError("key needs certificate")
        try:
            ZoneInfo(self.zone)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"there is no time zone {self.zone[:40]!r}") from None
        for url in filter(None, (self.centre, self.token_url)):
            Origin.of(url)
        return self


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,32}$")]
_Uid = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)+$", max_length=64)]


class ArchiveSettings(BaseModel):
    """The table ``[archives.NAME]``: another archive, which is sent studies, and asked for those of its patients."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = Field(default=None, description="Root of its DICOMweb services")
    peer: str | None = Field(default=None, description="Its name among the peers of DIMSE, where it has no `url`")
    token: str = Field(default="", description="Variable of the environment with a bearer token, for its `url`")
    ca: str = Field(default="", description="PEM file of who signs its certificate, beside the system's authorities")
    seconds: float = Field(default=60.0, gt=0, le=600, description="How long an answer of its `url` may take")
    facilities: tuple[str, ...] = Field(
        default=(),
        description="Ours whose Patient IDs it uses: for their studies it is asked for priors; default: none",
    )
    issuer: str = Field(default="", description="What it calls their issuer of Patient IDs; default: as we do")
    our_issuer: str = Field(default="", description="Issuer of Patient ID of what is fetched; default: the facility's")
    most: int = Field(default=5, ge=1, le=100, description="So many priors of a study are fetched at most")
    years: int = Field(default=10, ge=1, le=100, description="How old they are at most")
    megabytes: int = Field(default=2000, ge=1, description="How large each is at most, in MB (1,000,000 bytes)")

    @model_validator(mode="after")
    def _is_one(self) -> ArchiveSettings:
        if (self.url is None) == (self.peer is None):
            raise ValueError("an archive has a url or a peer, and not both")
        if self.url is not None:
            Origin.of(self.url)
        elif self.token or self.ca:
            raise ValueError("token and ca are for an archive with a url; those of a peer are in [dimse.peers]")
        return self


class ForwardHours(BaseModel):
    """The table ``[[forward.hours]]``: when a rule sends, and how much."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = Field(
        default=("mon", "tue", "wed", "thu", "fri", "sat", "sun"), min_length=1, description="On which days it begins"
    )
    starts: time = Field(default=time(0), description="When, by the clock of the rule's zone")
    ends: time = Field(default=time(0), description="Until when; on the next day where that is not after the start")
    kilobytes_per_second: float | None = Field(
        default=None, gt=0, description="So much is sent on the average; default: as much as goes"
    )


class ForwardRule(BaseModel):
    """The table ``[[forward]]``: which studies go on to others, and when.

    A condition that is not there holds for everything; ``*`` and ``?`` in patterns stand for anything, and case does
    not count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: _Name = Field(description="By which its studies are known")
    to: tuple[_Name, ...] = Field(min_length=1, description="Archives, or peers of DIMSE, by name")
    when: Literal["settled", "received"] = Field(
        default="settled", description="Once a study counts as complete, or each object as soon as it is there"
    )
    facilities: tuple[str, ...] = Field(default=(), description="Patterns of facilities whose studies go")
    sources: tuple[str, ...] = Field(default=(), description="Patterns of who has sent an object: `CT1`, `stow`")
    modalities: tuple[_Modality, ...] = Field(default=(), description="A study has one of these modalities")
    body_parts: tuple[str, ...] = Field(default=(), description="Patterns of Body Part Examined, one of which it has")
    descriptions: tuple[str, ...] = Field(default=(), description="Patterns of Study Description")
    priorities: tuple[Priority, ...] = Field(default=(), description="Its order or its reading is as urgent as this")
    flagged: bool = Field(default=False, description="true: only what a plugin or a person has flagged")
    series_modalities: tuple[_Modality, ...] = Field(default=(), description="Of a study only such series go")
    series_descriptions: tuple[str, ...] = Field(default=(), description="Patterns: only such series go")
    sop_classes: tuple[_Uid, ...] = Field(default=(), description="Only objects of these classes go")
    transcode: _Uid | None = Field(
        default=None, description="Transfer syntax in which pixels are sent, without loss; default: as they are stored"
    )
    changes: bool = Field(default=True, description="Whether what is corrected, or replaced, is sent again")
    hours: tuple[ForwardHours, ...] = Field(default=(), description="Tables `[[forward.hours]]`; default: always")
    zone: str = Field(default="UTC", description="Time zone of its hours")
    retry_hours: float = Field(default=72.0, gt=0, description="What cannot be sent for so long is given up")

    @field_validator("zone")
    @classmethod
    def _is_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{zone[:60]!r} is no time zone; one is America/Chicago") from None
        return zone

    @field_validator("transcode")
    @classmethod
    def _can_be_written(cls, syntax: str | None) -> str | None:
        from storage.encode import ENCODINGS, TARGETS  # here: they take a while, and few rules name a transfer syntax

        lossless = [target for target in TARGETS if target not in ENCODINGS or not ENCODINGS[target].is_lossy]
        if syntax is not None and syntax not in lossless:
            raise ValueError(f"pixels are not sent in {syntax}; one of {', '.join(lossless)} would do")
        return syntax

    @model_validator(mode="after")
    def _names_each_once(self) -> ForwardRule:
        if len(set(self.to)) < len(self.to):
            raise ValueError("to: each is named once")
        return self


class PeerReviewSettings(BaseModel):
    """The table ``[peer_review]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    conflicts: tuple[tuple[str, ...], ...] = Field(
        default=(), description="Groups of readers, by id, who do not review one another"
    )
    outside_reviewers: bool = Field(
        default=False, description="Whether a facility's own radiologists (`home`) review none of its readings"
    )
    visible_to_facilities: bool = Field(
        default=False,
        description="Whether a facility sees how many of its readings were reviewed; never of whom or how",
    )


class ReconcilingSettings(BaseModel):
    """The table ``[reconciling]``: how studies are matched to orders ([how to](../how-to/reconcile.md))."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window_hours: float = Field(
        default=24.0, gt=0, le=24 * 31, description="How far a study and the start of a step may be apart"
    )
    link_single: bool = Field(
        default=False,
        description="Whether a study without accession number is linked where patient, modality and time leave one "
        "order; else a person is asked",
    )


class Settings(BaseSettings):
    """Everything an operator can set; every value has a default that serves one machine."""

    model_config = SettingsConfigDict(env_prefix="READINGROOM_", env_nested_delimiter="__", extra="forbid", frozen=True)

    data: Path = Field(Path("var/data"), description="Folder of the store and of the SQLite catalog")
    database: str | None = Field(None, description="Database URL; default: SQLite in the data folder")
    store: str | None = Field(None, description="s3://bucket/prefix; default: the data folder")
    s3_endpoint: str | None = Field(None, description="Endpoint of an S3-compatible server")
    s3_region: str = Field("us-east-1", description="Region of the bucket")
    s3_access_key: str | None = Field(None, description="Access key id; default: the usual AWS sources")
    s3_secret_key: SecretStr | None = Field(None, description="Secret access key")
    host: str = Field("127.0.0.1", description="Address to bind; only loopback without authentication")
    port: int = Field(8780, ge=0, le=65535, description="Port to bind")
    workers: int = Field(1, ge=1, le=64, description="Worker processes")
    public_url: str | None = Field(None, description="Root that clients see, such as https://images.example.org")
    allowed_hosts: tuple[str, ...] = Field(
        ("127.0.0.1", "localhost", "[::1]"), description="Host names answered to, beside that of public_url"
    )
    trusted_proxies: tuple[str, ...] = Field((), description="Peers whose Forwarded headers are believed")
    cors_origins: tuple[str, ...] = Field((), description="Origins that may call from a browser; * for any")
    require_auth: bool = Field(
        False, description="Whether everybody needs a token; otherwise who comes without one is the local operator"
    )
    clients: dict[_ClientId, ClientSettings] = Field(
        {}, description="Programs that may have tokens ([how to](../how-to/fhir-access.md))"
    )
    export_hours: float = Field(24.0, gt=0, description="How long the files of a FHIR export are kept")
    private_networks: tuple[IPv4Network | IPv6Network, ...] = Field(
        (),
        description="Networks beside the public Internet where clients publish keys, and messages and reports are sent",
    )
    facility: str = Field("local", pattern=r"^[A-Za-z0-9._-]{1,64}$", description="Owner of what arrives unmarked")
    duplicates: Literal["version", "reject", "keep-first"] = Field(
        "version", description="Other bytes under a held SOP Instance UID: new version, refuse, or keep the first"
    )
    deletion: Literal["allowed", "refused"] = Field("allowed", description="Whether studies may be deleted over HTTP")
    purge_after_days: float | None = Field(
        None, ge=0, description="What was removed is purged after so many days; default: it is kept"
    )
    quality_rejections: Literal["hide", "show"] = Field(
        "hide", description="What becomes of instances that a note rejects for quality reasons (IHE IOCM)"
    )
    coerce: tuple[CoercionRule, ...] = Field(
        (), description="Rules that change what objects say as they come ([how to](../how-to/correct.md#coercion))"
    )
    rendition_bytes: int = Field(
        4 << 30, ge=0, description="Bytes of transcoded frames kept in the data folder, by all workers; 0 keeps none"
    )
    settle_seconds: float = Field(60.0, gt=0, description="Quiet period after which a study counts as complete")
    claim_minutes: float = Field(
        120.0, gt=0, le=100_000, description="A work item that its reader claimed and left alone is free again then"
    )
    settle_seconds_by_modality: dict[_Modality, Annotated[float, Field(gt=0)]] = Field(
        {}, description="The same for studies of these modalities, such as CT = 60, MR = 300; the longest counts"
    )
    embedded_worker: bool = Field(
        True, description="Whether 'serve' runs jobs itself; otherwise 'readingroom work' has to be running"
    )
    job_threads: int = Field(4, ge=1, le=64, description="Jobs that each process runs at once")
    search_attributes: tuple[Annotated[SearchAttribute, BeforeValidator(_spelled_out)], ...] = Field(
        (), description="Further attributes that searches match; see [search](search.md)"
    )
    max_object_bytes: int = Field(16 << 30, gt=0, description="Largest object accepted")
    max_memory_bytes: int = Field(64 << 20, gt=0, description="Upload bytes held in memory; more is spooled to disk")
    idle_seconds: float = Field(60.0, gt=0, description="An upload that sends nothing for this long is dropped")
    codec_memory_bytes: int = Field(
        2 << 30, ge=64 << 20, description="Memory that decoding or encoding a frame may take"
    )
    codec_seconds: float = Field(30.0, gt=0, description="Time that decoding or encoding a frame may take")
    annotation_font: Path | None = Field(
        None, description="TrueType or OpenType font of burned-in annotations; default: one for ASCII letters"
    )
    plugins_folder: Path | None = Field(
        None, description="Folder of plugins that are files or packages, and need no installation"
    )
    plugins: dict[str, PluginSettings] = Field(
        {}, description="Plugins that run, in their order, each with its settings"
    )
    reconciling: ReconcilingSettings = Field(
        ReconcilingSettings(), description="Studies and orders ([how to](../how-to/reconcile.md))"
    )
    peer_review: PeerReviewSettings = Field(
        PeerReviewSettings(),
        description="Who may review whom, and who sees that ([how to](../how-to/peer-review.md))",
    )
    research_mode: bool = Field(
        False, description="Whether algorithms without clearance may flag and promote studies; never for clinical use"
    )
    dimse: DimseSettings = Field(DimseSettings(), description="DIMSE ([how to](../how-to/dimse.md))")
    hl7: Hl7Settings = Field(Hl7Settings(), description="HL7 version 2 ([how to](../how-to/hl7.md))")
    edge: EdgeSettings = Field(EdgeSettings(), description="The edge at a site ([how to](../how-to/edge.md))")
    archives: dict[_Name, ArchiveSettings] = Field(
        {}, description="Other archives, by a name of your choice ([how to](../how-to/forwarding.md))"
    )
    forward: tuple[ForwardRule, ...] = Field(
        (), description="Which studies go on to others ([how to](../how-to/forwarding.md))"
    )
    report_objects: tuple[Literal["sr", "pdf"], ...] = Field(
        ("sr", "pdf"), description="What each signed report is stored as in its study: SR, PDF, both or neither"
    )
    report_fonts: Path | None = Field(
        None, description="Folder of fonts for reports as PDF; default: those of the machine alone"
    )
    signing_keys: Path | None = Field(
        None, description="File of the keys that sign reports; default: keys/reports.jwks in the data folder"
    )
    blocking_checks: tuple[str, ...] = Field(
        (), description="Codes of check_report that keep a report from being signed; others are only shown"
    )
    log_level: str = Field("info", description="debug, info, warning, error")

    @model_validator(mode="after")
    def _rules_have_names(self) -> Settings:
        names = [rule.name for rule in self.forward]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"forward: two rules have the name {twice[0]}")
        return self

    @property
    def signing_keys_path(self) -> Path:
        """Where the keys that sign reports are: never in the database."""
        return self.signing_keys or self.data / "keys" / "reports.jwks"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = os.environ.get("READINGROOM_CONFIG", "readingroom.toml")
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(path))

    def quiet_period(self, modalities: Collection[str]) -> timedelta:
        """For how long a study of these modalities has to be quiet to count as complete: the longest of theirs."""
        usual, periods = self.settle_seconds, self.settle_seconds_by_modality
        return timedelta(seconds=max((periods.get(one, usual) for one in modalities), default=usual))
