"""Errors: each says what was asked, what was found, and what to do."""

from __future__ import annotations


class DfxmError(ValueError):
    """Anything wrong with data, parameters, stores or recipes.

    Parameters
    ----------
    asked : str
        What was asked for: a parameter, a file and entry, a step.
    found : str
        What was found instead.
    remedy : str
        What the user can do, as an imperative.
    """

    def __init__(self, asked: str, found: str, remedy: str) -> None:
        super().__init__(asked, found, remedy)
        self.asked, self.found, self.remedy = asked, found, remedy

    def __str__(self) -> str:
        return f"{self.asked}: {self.found}; {self.remedy}"


class SourceError(DfxmError):
    """A beamline file that cannot be read as it claims to be."""


class StoreError(DfxmError):
    """A store that is absent, foreign, damaged or in the way."""


class IncompleteError(StoreError):
    """A group whose writing was started and not finished."""


class RecipeError(DfxmError):
    """A recipe or command that asks for something unknown or impossible."""


class InputError(DfxmError):
    """Arrays or parameters that a reduction cannot accept."""


class LockedError(StoreError):
    """A place where another run is at work."""


class DamagedError(StoreError):
    """A file of a store that is missing or not as it was written: what needs it cannot be made, the rest can."""


class StoppedError(DfxmError):
    """Work that was asked to end before it was done; what is on disk stays."""


class FramesApartWarning(UserWarning):
    """Frames that a reduction takes for measured at one position lie apart."""
