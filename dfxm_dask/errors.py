"""Errors: each states the request, the finding, and the remedy."""

from __future__ import annotations


class DfxmError(ValueError):
    """Error in data, parameters, stores or recipes.

    Parameters
    ----------
    asked : str
        The request: a parameter, a file and entry, a step.
    found : str
        The finding that prevents it.
    remedy : str
        The remedy, as an imperative.
    """

    def __init__(self, asked: str, found: str, remedy: str) -> None:
        super().__init__(asked, found, remedy)
        self.asked, self.found, self.remedy = asked, found, remedy

    def __str__(self) -> str:
        return f"{self.asked}: {self.found}; {self.remedy}"


class SourceError(DfxmError):
    """A beamline file that does not match its declared format."""


class StoreError(DfxmError):
    """A store that is missing, foreign, damaged, or already exists."""


class IncompleteError(StoreError):
    """A group whose writing was started and not finished."""


class RecipeError(DfxmError):
    """A recipe or command with an unknown name or an impossible request."""


class InputError(DfxmError):
    """Arrays or parameters that a reduction cannot accept."""


class LockedError(StoreError):
    """A store, group or folder in use by another run."""


class DamagedError(StoreError):
    """A file of a store that is missing or modified: dependent results cannot be computed, all others can."""


class StoppedError(DfxmError):
    """Work that was stopped before it was complete; results on disk remain."""


class FramesApartWarning(UserWarning):
    """Frames that a reduction treats as measured at one position were measured at different positions."""
