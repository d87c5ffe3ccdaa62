"""The contract of readingroom: the only package that a plugin imports."""

from readingroom.clock import Clock, SetClock, SystemClock
from readingroom.model import LOCAL_OPERATOR, Actor, Scope

__all__ = ["LOCAL_OPERATOR", "Actor", "Clock", "Scope", "SetClock", "SystemClock"]
