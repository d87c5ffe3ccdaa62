"""What can go wrong, as meaning; `server/status.py` turns meaning into numbers.

::

    ReadingRoomError
    ├── Invalid                 what was sent cannot be taken
    │   ├── NotDicom            bytes that are no DICOM object, or a broken one
    │   ├── NotThisStudy        an object of another study, series or SOP class than it was sent for
    │   ├── TooLarge            past a limit of length, depth or count
    │   ├── NotAcceptable       no representation that the client accepts
    │   │   └── Undecodable     a codec dies of making it, or would need too much memory or time
    │   ├── UnsupportedMedia    a request body of a type this service does not read
    │   └── Unprocessable       it can be read, and breaks a rule
    ├── NotFound                no such thing, or out of the caller's scope (which is the same)
    │   └── Gone                it was here and was deleted
    ├── Conflict                the state of the thing forbids it
    │   ├── Ambiguous           more than one facility owns that UID
    │   ├── Duplicate           that SOP Instance UID is held with other bytes
    │   ├── Changed             it is no longer what the caller read
    │   │   └── NotSelective    a condition that one resource has to meet is met by several
    │   └── Unconditional       the caller has to say what it has read
    ├── Refused                 not allowed
    │   ├── NotAuthenticated    nobody has said, in a way that can be believed, who asks
    │   └── ReadOnly            nobody may: it is made from other things
    ├── Unavailable             not now: full disk, busy, cold tier
    │   ├── OutOfSpace          the store cannot take more bytes
    │   └── RetryLater          a job that wants to be done again, not before a time
    │       └── Unreachable     nobody answers where it is to be sent
    ├── GiveUp                  a job that will never succeed
    │   └── Unprintable         no font of this server has some of the characters
    └── PluginFailed            a plugin raised, died, took too long, or gave what nobody can use
"""

from __future__ import annotations

from datetime import timedelta
from math import ceil


class ReadingRoomError(Exception):
    """Something went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])

    @property
    def message(self) -> str:
        """One line for a person: what was wrong, with which value, and what would be right."""
        return str(self.args[0])


class Invalid(ReadingRoomError):
    """What was sent cannot be taken."""


class NotDicom(Invalid):
    """These bytes are no readable DICOM object."""


class NotThisStudy(Invalid):
    """The object does not belong to the study or series it was sent for."""


class TooLarge(Invalid):
    """What was sent is past a limit of length, depth or count."""


class NotAcceptable(Invalid):
    """No representation of this resource is of a media type that the request accepts."""


class Undecodable(NotAcceptable):
    """No codec gets through this within its limits of memory and time."""


class UnsupportedMedia(Invalid):
    """The request body is of a media type that this service does not read."""


class Unprocessable(Invalid):
    """What was sent can be read, but breaks a rule of its kind."""


class NotFound(ReadingRoomError):
    """There is no such resource."""


class Gone(NotFound):
    """The resource was here and has been deleted."""


class Conflict(ReadingRoomError):
    """The state of the resource does not allow this."""


class Ambiguous(Conflict):
    """More than one facility owns this UID; ask below /dicomweb/f/{facility}."""


class Duplicate(Conflict):
    """That SOP Instance UID is already held with other bytes."""


class Changed(Conflict):
    """The resource has been changed since it was read; read it again."""


class NotSelective(Changed):
    """More than one resource meets the condition."""


class Unconditional(Conflict):
    """Say by If-Match which version this is to change."""


class Refused(ReadingRoomError):
    """This is not allowed."""


class NotAuthenticated(Refused):
    """A token is needed that this server has given and that is still good."""


class ReadOnly(Refused):
    """This is made from other things, and cannot be written."""


class Unavailable(ReadingRoomError):
    """Not available now; try again later."""

    def __init__(self, message: str | None = None, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OutOfSpace(Unavailable):
    """The store cannot take more bytes."""


class RetryLater(Unavailable):
    """This job cannot be done now; do it again later.

    Parameters
    ----------
    after
        How long to wait at least.
    """

    def __init__(self, message: str | None = None, *, after: timedelta = timedelta(minutes=1)) -> None:
        super().__init__(message, retry_after=ceil(after.total_seconds()))
        self.after = after


class Unreachable(RetryLater):
    """Nobody answers there."""


class GiveUp(ReadingRoomError):
    """This job will never succeed; the message says why."""


class Unprintable(GiveUp):
    """No font of this server has some of the characters."""


class PluginFailed(ReadingRoomError):
    """A plugin failed.

    Parameters
    ----------
    reason
        How: ``error`` (it raised), ``crash``, ``time``, ``memory``, ``output`` (it printed without end), ``answer``
        (of a wrong type, or too large), ``garbled`` (no answer at all), ``start`` (it could not be started).
    """

    def __init__(self, message: str | None = None, *, reason: str = "error") -> None:
        super().__init__(message)
        self.reason = reason
