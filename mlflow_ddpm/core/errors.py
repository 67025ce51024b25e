"""Every exception this package raises on purpose.

::

    MlflowDdpmError
    ├── UsageError (ValueError)     a caller's mistake: an argument, or the order of calls
    │   └── ConfigError             a setting out of range; the message names its dotted option
    ├── DataError                   a data set's files are missing, damaged or not what they claim
    ├── PeerLostError               another process of the same training died
    ├── MirrorError                 files in an output directory are not ours, or are damaged
    ├── HistoryError                a source has no history to read
    ├── ModelError                  a trained model is missing, damaged or not what it claims
    └── StoreError                  MLflow did not do what it was asked
        ├── StoreUnavailableError   an outage: the same call may work later
        ├── ItemRefusedError        the store will not take this one picture, file, tag, param or point
        └── StoreRefusedError       a mistake: the same call will fail again
            ├── RunMissingError     the store has no such run
            └── NoArtifactsError    the server's artifact store is not there

Messages say what was expected, what came, and what to do. The command line prints them as one line.
"""

from collections.abc import Iterator


class MlflowDdpmError(Exception):
    """Base of all errors of this package."""


class UsageError(MlflowDdpmError, ValueError):
    """The caller passed something wrong or called in the wrong order."""


class ConfigError(UsageError):
    """A setting is out of range."""


class DataError(MlflowDdpmError):
    """A data set's files are missing, damaged or not what they claim to be."""


class PeerLostError(MlflowDdpmError):
    """Another process of the same training died, so that this one cannot go on."""


class MirrorError(MlflowDdpmError):
    """The files of an output directory are not ours or are damaged."""


class HistoryError(MlflowDdpmError):
    """There is no history to read at the given source."""


class ModelError(MlflowDdpmError):
    """A trained model is missing, damaged or not what it claims to be."""


class StoreError(MlflowDdpmError):
    """MLflow did not do what it was asked."""


class StoreUnavailableError(StoreError):
    """The store cannot be reached or has failed; the same call may work later."""


class ItemRefusedError(StoreError):
    """The store will not take this one item; the same item will be refused again, others may be taken."""


class StoreRefusedError(StoreError):
    """The store answered no; the same call will be refused again."""


class RunMissingError(StoreRefusedError):
    """The store has no run of that id."""


class NoArtifactsError(StoreRefusedError):
    """The server is there, its artifact store is not."""


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, what it is a group of, and what caused them; the first cause last, unless of a group."""
    seen: set[int] = set()
    pending = [error]
    while pending:
        error = pending.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            yield error
            pending += [error.__cause__ or error.__context__]
            pending += error.exceptions if isinstance(error, BaseExceptionGroup) else ()
