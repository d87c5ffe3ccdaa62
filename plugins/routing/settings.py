"""What a site can set in ``[plugins.routing]``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Slack(BaseModel):
    """How many minutes an item may wait for a reader of its field before another one gets it, by how soon it is due."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flagged: float = Field(default=1, ge=0)
    stat: float = Field(default=2, ge=0)
    at_risk: float = Field(default=8, ge=0)
    asap: float = Field(default=8, ge=0)
    urgent: float = Field(default=20, ge=0)
    routine: float = Field(default=240, ge=0)


class RoutingSettings(BaseModel):
    """The settings of the index policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slack_minutes: Slack = Slack()
    at_risk_minutes: float = Field(
        default=30,
        ge=0,
        description="an item that has to be begun within this time is at risk of being late, and goes first",
    )
    pressing_minutes: float = Field(
        default=3, ge=0, description="a STAT item that has to be begun within this time goes before what is flagged"
    )
    late_minutes: float = Field(
        default=120,
        ge=0,
        description="what is late by this much goes with what is at risk, so that nothing waits for ever",
    )
    overload: float = Field(
        default=0.7, gt=0, description="from this predicted load on nothing is at risk, and overflow readers are called"
    )
    horizon_minutes: float = Field(default=120, gt=0, description="the load is what is due within this time")
