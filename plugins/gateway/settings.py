"""What a site can set in ``[plugins.gateway]``."""

from __future__ import annotations

from collections.abc import Iterator
from string import Template
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, IPvAnyNetwork, SecretStr, field_validator, model_validator

from readingroom.outbound import Origin

WORDS = frozenset({"to", "text", "key", "link", "facility", "status", "report", "document"})
"""What may stand in a template behind a ``$``."""


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Gateway(_Settings):
    """A service that sends faxes or texts, asked by HTTP.

    In `fields` and `text` stand ``$to``, ``$text``, ``$key``, ``$link``, ``$facility``, ``$status`` and ``$report``
    (its id), and in `fields` ``$document``: the report as PDF, in base64.
    """

    url: str
    headers: dict[str, SecretStr] = Field(default_factory=dict)
    encoding: Literal["json", "form"] = "json"
    fields: dict[str, Any]
    text: str = "A radiology report of $facility is ready: $link"
    key_header: str = "Idempotency-Key"
    reference: str | None = Field(
        default=None, description="where a JSON answer says what it knows the message by, such as id or data.id"
    )
    seconds: float = Field(default=20.0, gt=0, le=50)

    @field_validator("url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        Origin.of(url)
        return url

    @property
    def sends_document(self) -> bool:
        """Whether the report itself goes along."""
        return any("document" in Template(text).get_identifiers() for text in texts(self.fields))

    @model_validator(mode="after")
    def _can_be_filled_in(self) -> Self:
        for text, known in ((self.text, WORDS - {"text", "document"}), *((one, WORDS) for one in texts(self.fields))):
            template = Template(text)
            if not template.is_valid() or not known.issuperset(template.get_identifiers()):
                allowed = ", ".join(f"${name}" for name in sorted(known))
                raise ValueError(f"{text!r} has a placeholder other than {allowed}")
        if self.encoding == "form" and any(not isinstance(value, str) for value in self.fields.values()):
            raise ValueError("the fields of a form are texts")
        return self


class GatewaySettings(_Settings):
    """The settings of the gateways."""

    base_url: str = Field(description="where readers of reports reach this server: a text links to BASE/reports/ID.pdf")
    gateways: dict[str, Gateway] = Field(
        min_length=1, description="by the channel of destinations that they carry, such as fax or sms"
    )
    private_networks: tuple[IPvAnyNetwork, ...] = Field(
        default=(), description="networks that are not of the public Internet where gateways may be"
    )

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, url: str) -> str:
        Origin.of(url)
        return url.rstrip("/")

    @field_validator("gateways")
    @classmethod
    def _says_nothing_in_a_text(cls, gateways: dict[str, Gateway]) -> dict[str, Gateway]:
        if "sms" in gateways and gateways["sms"].sends_document:
            raise ValueError("a text lights up on a table: what goes by sms has no $document")
        return gateways


def texts(value: Any) -> Iterator[str]:
    """All templates in a field."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)
