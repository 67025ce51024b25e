"""How a training ended. Alone in its file because both sinks, the mirror and the uploader, take it at their close."""

from typing import NamedTuple


class RunOutcome(NamedTuple):
    """A run's final status, in MLflow's terms, and the reason."""

    status: str  # FINISHED, FAILED or KILLED
    error_type: str = ""
    error_message: str = ""
    at_ms: int | None = None  # None: now
