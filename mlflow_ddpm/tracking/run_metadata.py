"""What a run says of itself beside its epochs: config, tags, environment; without credentials."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from mlflow_ddpm.core.redaction import HIDDEN, redact, redacted
from mlflow_ddpm.core.strict_json import as_config, flatten

__all__ = ["RunMetadata"]

_log = logging.getLogger("mlflow_ddpm")
_NAMED = 5  # changed settings that are named


class RunMetadata(NamedTuple):
    """A run's own words; nothing else of what the caller gave is written, sent or logged."""

    config: Mapping[str, Any]
    tags: Mapping[str, str]
    environment: Mapping[str, Any]
    hidden: tuple[str, ...]  # what was taken out, to be looked for in error messages

    @classmethod
    def of(cls, config: object, tags: Mapping[str, str], environment: Mapping[str, Any]) -> Self:
        """Take the credentials out of what the caller gave, and say once under which names they stood.

        Raises:
            UsageError: ``config`` is none.
        """
        settings = redacted(as_config(config))
        marks, place = redacted(tags, settings.known), redacted(environment, settings.known)
        names = [*settings.names, *(f"tag {name}" for name in marks.names), *place.names]
        if names:
            _log.warning(
                "what looks like a credential is recorded as %s, on disk and in MLflow alike: %s",
                HIDDEN,
                ", ".join(names),
            )
        return cls(settings.value, marks.value, place.value, (*settings.known, *marks.known))

    def clean(self, text: str) -> str:
        """Return the text without credentials, those of the config and tags included."""
        return redact(text, self.hidden)

    def compare_config(self, previous: Mapping[str, Any]) -> None:
        """Say where a resumed run's config is another: MLflow keeps a param's first value for ever."""
        first, now = flatten(redacted(previous).value), flatten(self.config)
        changed = [key for key, value in now.items() if key in first and first[key] != value]
        if changed:
            _log.warning(
                "the config has changed since the run began (%s); MLflow's params keep the first values, the JSON "
                "and the report take the new ones",
                ", ".join(f"{key} was {first[key]}, is {now[key]}" for key in changed[:_NAMED]),
            )
