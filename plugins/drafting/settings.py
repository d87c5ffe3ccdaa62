"""What an operator can set of the plugin."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """``[plugins.drafting]``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    least_probability: float = Field(
        default=0.5, ge=0, le=1, description="findings with a lower probability are not written of"
    )
