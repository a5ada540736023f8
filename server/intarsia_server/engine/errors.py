"""What the engine refuses, in words that name the request's field."""

from __future__ import annotations


class InvalidInputError(ValueError):
    """The request cannot be carried out as it stands.

    Attributes:
        field: path of the field at fault, in the spelling of the API ("segments[1].style.data").
        reason: what is wrong with it, for a person.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[InvalidInputError], tuple[str, str]]:
        """Pickles by its two parts; the default would pass the joined message alone."""
        return type(self), (self.field, self.reason)


class WeightsUnavailableError(RuntimeError):
    """A network that is known, but whose weights are not at hand.

    The message says how to bring them, and names no path: clients read it. The cause may; it is for the log.
    """


class CancelledError(Exception):
    """The work was cancelled."""
