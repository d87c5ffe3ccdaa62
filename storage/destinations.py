"""What a destination of reports has to be like, channel by channel: its address, and the options that it takes.

The same rules are asked when a destination is written to a directory, and again when something is to go there: what an
older release has kept may be less than right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from readingroom.outbound import Origin

_MAIL = re.compile(r"mailto:[^@\s<>,;?]{1,64}@[A-Za-z0-9][A-Za-z0-9.-]*\.[A-Za-z0-9-]+")
_NUMBER = re.compile(r"\+[1-9]\d{6,14}")
_AE = re.compile(r"(?P<ae>[ -?A-\[\]-~]{1,16})@(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):(?P<port>\d{1,5})")


class Options(BaseModel):
    """Options of a channel: nothing in them that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Hl7Options(Options):
    """How reports are told in HL7 version 2, and how the receiver answers."""

    version: Literal["2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.7.1", "2.8"] = "2.5.1"
    acknowledgement: Literal["original", "enhanced"] = "original"
    sending_application: str = "READINGROOM"
    sending_facility: str = ""
    receiving_application: str = ""
    receiving_facility: str = ""
    text: Literal["FT", "TX"] = "FT"
    corrected: Literal["C", "F"] = "C"
    """OBR-25 of what is amended, corrected or appended: F for receivers that know no C."""
    pdf: bool = False
    character_set: Literal["UNICODE UTF-8", "8859/1", "8859/2", "8859/5", "8859/7", "8859/15", "ASCII"] = (
        "UNICODE UTF-8"
    )
    processing: Literal["P", "T", "D"] = "P"
    seconds: float = Field(30.0, gt=0, le=300)
    """How long an answer may take."""
    ca: str = ""
    """File with the certificates of those who may have signed the receiver's; by default those of the system."""
    certificate: str = ""
    """File with our own certificate, and `key` with its key, where the receiver asks for one."""
    key: str = ""


class FhirOptions(Options):
    """How reports are told to a FHIR server, and who we are there.

    Credentials are never written here: `token` names a variable of the environment, `key` a file.
    """

    token: str = ""
    """Variable of the environment that has a bearer token."""
    token_url: str = ""
    """Where SMART Backend Services gives tokens to `client_id`, which has the private JWK in the file `key`."""
    client_id: str = ""
    key: str = ""
    scope: str = "system/*.*"
    patients: Literal["create", "match"] = "create"
    """Whether a patient whom the server does not know is made there, or the report is refused."""
    patient_system: str = ""
    """What the server calls the system of our Patient IDs; by default what we call that of their issuer."""
    accession_system: str = ""
    """The same of accession numbers; without it a report names its order, and does not refer to one."""
    pdf: bool = True
    ca: str = ""
    seconds: float = Field(30.0, gt=0, le=300)

    @model_validator(mode="after")
    def _is_one_client(self) -> Self:
        smart = [bool(one) for one in (self.token_url, self.client_id, self.key)]
        if any(smart) and (not all(smart) or self.token):
            raise ValueError("token_url, client_id and key come together, and without token")
        if self.token_url:
            Origin.of(self.token_url)
        return self


class StowOptions(Options):
    """What goes to the root of a DICOMweb service, and how."""

    objects: Literal["both", "sr", "pdf"] = "both"
    token: str = ""
    """Variable of the environment that has a bearer token."""
    ca: str = ""
    seconds: float = Field(60.0, gt=0, le=300)


class DicomOptions(Options):
    """What goes to an application entity, and how."""

    objects: Literal["both", "sr", "pdf"] = "both"
    calling: str = Field("READINGROOM", pattern=r"^[ -\[\]-~]{1,16}$")
    tls: bool = False
    ca: str = ""
    certificate: str = ""
    key: str = ""
    seconds: float = Field(60.0, gt=0, le=300)


class MailOptions(Options):
    """The mail server, and what the mail may say.

    With the `certificate` of the recipient the report goes along, encrypted (S/MIME); without it the mail says that a
    report is there, and where: below `link`.
    """

    server: str = Field(min_length=1)
    port: int = Field(587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    sender: str = Field(pattern=r"^[^@\s<>]+@[^@\s<>]+$")
    username: str = ""
    password: str = ""
    """Variable of the environment that has the password."""
    certificate: str = ""
    link: str = ""
    ca: str = ""
    seconds: float = Field(30.0, gt=0, le=300)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if bool(self.username) != bool(self.password):
            raise ValueError("username and password come together")
        if self.username and self.security == "none":
            raise ValueError("a password is sent with security starttls or tls alone")
        if not self.certificate and not self.link:
            raise ValueError("a mail needs the certificate of whom it is for, or a link")
        if self.link:
            Origin.of(self.link)
        return self


OPTIONS: Mapping[str, type[Options]] = {
    "hl7": Hl7Options,
    "fhir": FhirOptions,
    "stow": StowOptions,
    "dicom": DicomOptions,
    "mail": MailOptions,
}
"""The options of channels that say which they take; those of others are the business of the plugin."""


def application_entity(address: str) -> tuple[str, str, int]:
    """AE title, host and port of an address ``AE@host:port`` that has no problem."""
    found = _AE.fullmatch(address)
    assert found is not None, "it was looked at before"
    return found["ae"].strip(), found["host"].strip("[]"), int(found["port"])


def address_problem(channel: str, address: str) -> str | None:
    """What is wrong with the address of a destination, in a few words; None where nothing is."""
    if not address.strip():
        return "it is blank"
    match channel:
        case "hl7":
            return _of_url(address, "mllp", "mllps")
        case "fhir" | "stow":
            try:
                Origin.of(address)
            except ValueError as error:
                return str(error)
        case "mail" if not _MAIL.fullmatch(address):
            return "write a mail address such as mailto:desk@example.org"
        case "fax" | "sms" if not _NUMBER.fullmatch(address):
            return "write a number in international form such as +15125550100"
        case "dicom":
            found = _AE.fullmatch(address)
            if found is None or not found["ae"].strip() or not 0 < int(found["port"]) < 65536:
                return "write an application entity such as PACS@pacs.example.org:104"
    return None


def options_problem(channel: str, options: Mapping[str, Any]) -> str | None:
    """What is wrong with the options of a destination; None where nothing is."""
    kind = OPTIONS.get(channel)
    if kind is None:
        return None
    try:
        kind.model_validate(options)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return None


def _of_url(address: str, *schemes: str) -> str | None:
    """What is wrong with an address of a scheme, a host and a port, and nothing else."""
    wrong = f"write it as {schemes[0]}://host:port, or {schemes[-1]}:// with TLS"
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return wrong
    rest = parts.path or parts.query or parts.fragment or parts.username or parts.password
    is_plain = bool(re.fullmatch(r"[!-~]+", address)) and "\\" not in address
    if parts.scheme not in schemes or not parts.hostname or not port or rest or not is_plain:
        return wrong
    return None
