"""Which other archives are asked for earlier studies, and how much is answered."""

from __future__ import annotations

from typing import Annotated

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, SecretStr


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Remote(_Table):
    """Another archive, by the root of its DICOMweb services.

    `facilities` are those of ours whose Patient IDs it uses: for the studies of others it is not asked, since there the
    same number may be somebody else.
    """

    name: str
    url: AnyHttpUrl
    facilities: Annotated[tuple[str, ...], Field(min_length=1)]
    token: SecretStr | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=30)] = 5.0

    @property
    def root(self) -> str:
        return str(self.url).rstrip("/")


class Settings(_Table):
    """The table of the plugin."""

    remotes: tuple[Remote, ...] = ()
    most: Annotated[int, Field(ge=1, le=200)] = 20
    """So many priors are told, the most relevant ones."""
    least_relevance: Annotated[float, Field(ge=0, le=1)] = 0.25
    attempts: Annotated[int, Field(ge=1)] = 3
    """So often a remote archive that does not answer is waited for; then the priors of the others are told."""
