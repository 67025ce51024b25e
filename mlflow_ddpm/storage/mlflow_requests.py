"""What every request of MLflow's client has in a call of ours: bounds in time and memory, and who gets credentials.

MLflow knows no setting per client for any of it; requests of the user's own calls stay as they are.
"""

import contextlib
import io
import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from mlflow_ddpm.core.errors import StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.core.redaction import redact

_T = TypeVar("_T")
_ANSWER_MAX = 32 * 2**20  # bytes; ten times what a page of 25,000 points has, and 1 GB as Python's lists at worst
ANSWER_SEC = 45.0  # for an answer; longer if the user's settings are, or a file is sent
SLOWEST = 2**12  # bytes of a file a second
_calls = threading.local()  # .stores: those that the calls of ours ask in which this thread is, the outermost first


@contextlib.contextmanager
def call_of_ours(tracking_uri: str) -> Iterator[None]:
    """Mark this thread as one that asks a store in a call of ours while the body runs."""
    stores = _calls.__dict__.setdefault("stores", [])
    stores.append(tracking_uri)
    try:
        yield
    finally:
        stores.pop()


def store_called() -> str | None:
    """Return the store that this thread asks in a call of ours; None outside of them."""
    stores = getattr(_calls, "stores", None)
    return stores[-1] if stores else None


def bound_mlflow_waits() -> None:
    """Keep one call to a dead server from taking MLflow's default of four to twenty minutes.

    MLflow reads these variables at each call and knows no setting per client; what the user has set stays.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")  # which may ask for a day


def bound_answers() -> None:
    """Have MLflow's client read at most :data:`_ANSWER_MAX` bytes of an answer; it knows no bound of its own."""
    from mlflow.utils import request_utils

    make = getattr(request_utils, "_get_request_session", None)  # of MLflow 2 and 3; another has no bound
    if make is None or hasattr(make, "is_bounded"):
        return

    def bounded(*args: Any, **kwargs: Any) -> Any:
        session = make(*args, **kwargs)
        if _read_bounded not in session.hooks["response"]:
            session.hooks["response"].append(_read_bounded)
            session.request = partial(_request, session.request)
            session.rebuild_auth = partial(_leave_auth_behind, session, session.rebuild_auth)
        return session

    bounded.is_bounded = True  # type: ignore[attr-defined]
    request_utils._get_request_session = bounded  # noqa: SLF001


def _request(request: Callable[..., Any], method: str, url: str, **how: Any) -> Any:
    """Make a request; one of ours is bounded in time, and has the user's credentials for servers the user named only.

    Another server is one that the store names for a run's artifacts: whoever made the run may have named it.
    """
    import mlflow

    store = store_called()
    if store is None:
        return request(method, url, **how)
    named = (server_of(uri) for uri in (store, mlflow.get_tracking_uri(), mlflow.get_registry_uri()))
    if re.match("databricks|uc", store) or server_of(url) in named:
        return _request_in_time(request, method, url, **how)
    how |= {"headers": {**how.get("headers", {}), "Authorization": None}, "cert": None, "auth": lambda bare: bare}
    answer = _request_in_time(request, method, url, **how)
    if answer.status_code in (401, 403):
        raise StoreRefusedError(
            f"{redact(url)} asks for credentials, which go to no server but those that you name, such as "
            f"{redact(store)}; have that one serve its artifacts (mlflow server --serve-artifacts)"
        )
    return answer


def _leave_auth_behind(session: Any, rebuild_auth: Callable[..., None], request: Any, answer: Any) -> None:
    """Follow a redirect without credentials, if it leads to another server; ``.netrc`` may have some for it."""
    rebuild_auth(request, answer)
    if store_called() is not None and session.should_strip_auth(answer.request.url, request.url):
        request.headers.pop("Authorization", None)


def server_of(uri: str) -> tuple[str | None, str | None, int | None]:
    r"""Return scheme, host and port as the HTTP client reads them; others read ``b`` in ``http://a\@b``."""
    from urllib3.util import parse_url

    try:
        parts = parse_url(uri)
    except ValueError:
        return uri, None, None
    return parts.scheme, parts.host, parts.port or {"http": 80, "https": 443}.get(parts.scheme or "")


def _request_in_time(request: Callable[..., Any], method: str, url: str, **how: Any) -> Any:
    """Make a request in a thread of its own: a server that sends a byte a second keeps a call for ever.

    One that writes may have been heard, as with any answer that is lost; whoever repeats it looks first.
    """
    from requests.utils import super_len

    if isinstance(how.get("data"), io.BufferedReader):
        how["data"] = _FileAsItWas(how["data"])
    tries = 2 + int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
    limit = max(ANSWER_SEC, tries * float(os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]))
    limit += super_len(how.get("data") or b"") / SLOWEST  # type: ignore[no-untyped-call]
    try:
        return in_time(limit, lambda: request(method, url, **how))
    except TimeoutError as error:
        raise StoreUnavailableError(f"{redact(url)} did not send its whole answer within {limit:g} s") from error


def in_time(seconds: float | None, call: Callable[[], _T]) -> _T:
    """Return what a call returns that knows no time limit of its own, such as one of ``ftplib``; raise what it raises.

    One that takes longer is left alone in its thread, and TimeoutError is raised; an interrupt, too, ends the wait, not
    the call. ``seconds``: None for a call that needs no limit.
    """
    answer: Future[_T] = Future()
    store = store_called()

    def ask() -> None:
        with call_of_ours(store) if store is not None else contextlib.nullcontext():
            try:
                answer.set_result(call())
            except BaseException as error:  # noqa: BLE001 - raised to the caller; a plug-in may exit
                answer.set_exception(error)

    try:
        threading.Thread(target=ask, daemon=True).start()
    except RuntimeError:  # newer Pythons start no thread at the interpreter's exit
        ask()
    return answer.result(seconds)


def import_apart(load: Callable[[], object]) -> None:
    """Import something on another thread: an interrupt would leave half of an import, for good."""
    in_time(None, load)


class _FileAsItWas:
    """A file that is sent with the length that it had at first, though another program may write to it meanwhile.

    Bytes beyond the length that the request has announced would pass for the connection's next request.
    """

    def __init__(self, file: io.BufferedReader) -> None:
        self._file, self._size = file, os.fstat(file.fileno()).st_size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        return iter(partial(self.read, 2**16), b"")

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, *where: int) -> int:
        return self._file.seek(*where)

    def read(self, most: int = -1) -> bytes:
        left = self._size - self._file.tell()
        chunk = self._file.read(left if most < 0 else min(most, left))
        if left > 0 and most and not chunk:
            raise StoreUnavailableError(f"{self._file.name} became shorter while it was sent")
        return chunk


def _read_bounded(response: Any, *, stream: bool = False, **_: Any) -> None:
    """Read an answer in a call of ours, piece by piece: it may be packed a thousand times smaller than it is."""
    if stream or store_called() is None:
        return
    content = bytearray()
    for chunk in response.iter_content(2**16):
        content += chunk
        if len(content) > _ANSWER_MAX:
            response.close()
            raise StoreRefusedError(
                f"{redact(response.url)} answered with more than {_ANSWER_MAX >> 20} MiB, which MLflow never does; "
                "check the tracking URI"
            )
    response._content = bytes(content)  # noqa: SLF001 - as reading it whole does
    response.encoding = response.encoding or "utf-8"  # else it would be guessed, which takes minutes
