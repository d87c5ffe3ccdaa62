"""What a site can set in ``[plugins.escalation]``."""

from __future__ import annotations

from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Iterator
from string import Template
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    NonNegativeFloat,
    SecretStr,
    field_validator,
    model_validator,
)

from readingroom.model import Category
from readingroom.outbound import Origin

type Shown = Literal["reason", "item", "study_uid", "accession_number", "patient_id", "patient_name"]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LadderRung(_Settings):
    """Whose turn it is, and how long after the escalation was opened."""

    role: str = Field(min_length=1)
    after_minutes: NonNegativeFloat


class Ladder(_Settings):
    """The rungs for some escalations; an empty list means all categories, or all facilities."""

    categories: tuple[Category, ...] = ()
    facilities: tuple[str, ...] = ()
    rungs: tuple[LadderRung, ...] = Field(min_length=1)

    @field_validator("rungs")
    @classmethod
    def _one_after_the_other(cls, rungs: tuple[LadderRung, ...]) -> tuple[LadderRung, ...]:
        spans = [rung.after_minutes for rung in rungs]
        if spans != sorted(spans):
            raise ValueError("after_minutes has to grow from rung to rung, for each is counted from the opening")
        return rungs


class Smtp(_Settings):
    """The mail server that takes messages to the channel ``smtp``."""

    host: str
    port: int = Field(default=587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str | None = None
    password: SecretStr | None = None
    sender: str = Field(pattern=r"^[^@\s<>]+@[^@\s<>]+$")
    ca_file: str | None = Field(default=None, description="certificates to trust beside those of the system")
    seconds: float = Field(default=15.0, gt=0, le=50, description="how long the server may be silent")

    @model_validator(mode="after")
    def _no_password_in_the_clear(self) -> Self:
        if self.username is not None and self.security == "none":
            raise ValueError("a password is sent to a mail server with security starttls or tls alone")
        if (self.username is None) != (self.password is None):
            raise ValueError("username and password come together")
        return self


class Webhook(_Settings):
    """Who may be sent webhooks: contacts of the channel ``webhook`` with a URL of this origin."""

    origin: str
    secret: SecretStr = Field(description="whsec_ and at least 24 bytes in Base64 (Standard Webhooks)")

    @field_validator("origin")
    @classmethod
    def _is_an_origin(cls, origin: str) -> str:
        if Origin.of(origin).url != origin.rstrip("/"):
            raise ValueError("an origin is a scheme, a host and a port, such as https://hooks.example.org")
        return origin

    @field_validator("secret")
    @classmethod
    def _is_a_secret(cls, secret: SecretStr) -> SecretStr:
        if len(key_of(secret)) < 24:
            raise ValueError("the secret has fewer than 24 bytes")
        return secret

    @property
    def key(self) -> bytes:
        """What requests are signed with."""
        return key_of(self.secret)


class Gateway(_Settings):
    """A service that calls or texts people, asked by HTTP.

    In `fields` and `text` stand ``$to``, ``$text``, ``$key``, ``$url``, ``$facility`` and ``$urgency``.
    """

    url: str
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    encoding: Literal["json", "form"] = "json"
    fields: dict[str, Any]
    text: str = "Critical result at $facility, to be read $urgency. Acknowledge it at $url"
    key_header: str = "Idempotency-Key"
    reference: str | None = Field(default=None, description="the field of a JSON answer that identifies the message")

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        Origin.of(url)
        return url

    @model_validator(mode="after")
    def _can_be_filled_in(self) -> Self:
        known = {"to", "text", "key", "url", "facility", "urgency"}
        for text in (self.text, *_texts(self.fields)):
            template = Template(text)
            if not template.is_valid() or not known.issuperset(template.get_identifiers()):
                raise ValueError(
                    f"{text!r} has a placeholder other than {', '.join(f'${name}' for name in sorted(known))}"
                )
        if self.encoding == "form" and any(not isinstance(value, str) for value in self.fields.values()):
            raise ValueError("the fields of a form are texts")
        return self


class EscalationSettings(_Settings):
    """The settings of ladders, messages and channels."""

    base_url: str = Field(description="where readers reach this server: a message links to BASE/escalations/ID")
    show: tuple[Shown, ...] = Field(
        default=(), description="what a message says of the case; nothing by default, for mail is read by many"
    )
    ladders: tuple[Ladder, ...] = ()
    smtp: Smtp | None = None
    webhooks: tuple[Webhook, ...] = ()
    gateways: dict[str, Gateway] = Field(
        default_factory=dict, description="by the channel that they carry, such as voice or sms"
    )
    private_networks: tuple[IPvAnyNetwork, ...] = Field(
        default=(), description="networks that are not of the public Internet where webhooks and gateways may be"
    )

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        Origin.of(url)
        return url.rstrip("/")

    @field_validator("gateways")
    @classmethod
    def _has_its_own_channel(cls, gateways: dict[str, Gateway]) -> dict[str, Gateway]:
        if taken := {"smtp", "webhook"}.intersection(gateways):
            raise ValueError(f"{', '.join(sorted(taken))} is a channel of its own, and no gateway")
        return gateways


def key_of(secret: SecretStr) -> bytes:
    """The bytes of a secret as Standard Webhooks writes it."""
    text = secret.get_secret_value()
    if not text.startswith("whsec_"):
        raise ValueError("the secret has to begin with whsec_")
    try:
        return b64decode(text.removeprefix("whsec_"), validate=True)
    except NotBase64:
        raise ValueError("the secret is no Base64 behind whsec_") from None


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from _texts(part)
