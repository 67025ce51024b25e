"""A run's config, tags and environment: made plain, redacted and frozen once, where the caller hands them over."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, Self

from mlflow_ddpm.core.redaction import HIDDEN, redact, redacted
from mlflow_ddpm.core.strict_json import as_config, flatten, freeze

__all__ = ["RunMetadata"]

_log = logging.getLogger("mlflow_ddpm")
_NAMED_MAX = 5  # changed settings that are named in one message


class RunMetadata(NamedTuple):
    """What is recorded of a run beside its epochs. Nobody can change it, and nothing downstream cleans it again."""

    config: Mapping[str, Any]  # plain data, nested
    params: Mapping[str, str]  # the config's leaves under dotted keys, as MLflow takes them
    tags: Mapping[str, str]
    environment: Mapping[str, Any]
    hidden: tuple[str, ...]  # what was taken out, to be searched for in error messages; never written

    @classmethod
    def create(cls, config: object, tags: Mapping[str, str], environment: Mapping[str, Any]) -> Self:
        """Take the credentials out of what the caller gave, and log once under which names they stood.

        Raises:
            UsageError: ``config`` is neither a mapping nor a dataclass, an ``argparse.Namespace`` or the like.
        """
        settings = redacted(as_config(config))
        marks, machine = redacted(tags, settings.known), redacted(environment, settings.known)
        names = [*settings.names, *(f"tag {name}" for name in marks.names), *machine.names]
        if names:
            _log.warning(
                "what looks like a credential is recorded as %s, on disk and in MLflow alike: %s",
                HIDDEN,
                ", ".join(names),
            )
        return cls(
            config=freeze(settings.value),
            params=freeze(flatten(settings.value)),
            tags=freeze(flatten(marks.value)),
            environment=freeze(machine.value),
            hidden=(*settings.known, *marks.known),
        )

    def redact(self, text: str) -> str:
        """Return the text without credentials, those of the config and the tags included."""
        return redact(text, self.hidden)

    def compare_config(self, previous: Mapping[str, Any]) -> None:
        """Warn where a resumed run's config differs: MLflow keeps the first value of a param."""
        first = flatten(redacted(previous).value)
        changed = [key for key, value in self.params.items() if key in first and first[key] != value]
        if changed:
            _log.warning(
                "the config has changed since the run began (%s); MLflow's params keep the first values, the JSON "
                "and the report take the new ones",
                ", ".join(f"{key} was {first[key]}, is {self.params[key]}" for key in changed[:_NAMED_MAX]),
            )
