"""Classify what MLflow and the libraries below it raise: passing, permanent, or permanent for one item only.

A passing fault may be gone when the same call is made again: an outage, a time-out, a lock, a full disk. A permanent
one needs a person: a wrong address, a missing right, a missing package. The rules read, in this order, the exceptions
of the chain, the HTTP status, MLflow's error code, and the text of a database.
"""

import os
import re
import socket
from json import JSONDecodeError

from mlflow_ddpm.core.errors import NoArtifactsError, RunMissingError, error_chain
from mlflow_ddpm.core.formatting import first_line
from mlflow_ddpm.storage.fault_rules import (
    DATABASE_TEXTS,
    EDIT_RIGHT,
    HTTP_STATUS,
    ITEM_CODES,
    ITEM_ERRNO,
    KNOWN_TEXTS,
    OF_ITEM,
    PACKAGES,
    PASSING,
    PASSING_ERRNO,
    PASSING_STATUS,
    PERMANENT,
    PERMANENT_CODES,
    RESTORE,
    SEND_CREDENTIALS,
    Fault,
)


def classify_fault(error: BaseException) -> Fault:
    """Return what an exception of a call into MLflow means."""
    chain = list(error_chain(error))
    text = "\n".join(str(link) for link in chain)
    return (
        _known_message(text)
        or _missing_package(chain)
        or _http_fault(chain, text)
        or _connection_fault(chain, text)
        or _cloud_fault(chain, text)
        or _name_fault(chain)
        or _database_fault(chain, text)
        or _mlflow_fault(chain)
        or _file_fault(chain)
        or _odd_fault(error)
    )


def _family(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _known_message(text: str) -> Fault | None:
    for pattern, cause, remedy in KNOWN_TEXTS:
        if re.search(pattern, text, re.IGNORECASE):
            return Fault(PERMANENT, cause, remedy)
    return None


def _missing_package(chain: list[BaseException]) -> Fault | None:
    for link in chain:
        if isinstance(link, ImportError):
            name = (link.name or "").partition(".")[0]
            package = PACKAGES.get(name, name)
            return Fault(PERMANENT, str(link), f"pip install {package}" if package else "")
    return None


def _http_fault(chain: list[BaseException], text: str) -> Fault | None:
    status = _http_status(chain, text)
    if status is None:
        is_no_json = any(isinstance(link, JSONDecodeError) or type(link).__name__ == "ParseError" for link in chain)
        if is_no_json or "not in a valid JSON format" in text:  # after a redirect to a login page, say
            cause = "a web page came instead of MLflow's answer"
            return Fault(PASSING, cause, "check the tracking URI; a login page or a proxy may stand in front")
        return None
    if status == 404 and "/logged-models" in text:  # noqa: PLR2004
        return Fault(PERMANENT, "the server is older than MLflow 3.0, and keeps no logged models")
    if status == 404 and "/mlflow-artifacts/" in text:  # noqa: PLR2004 - the server is there, its artifact store is not
        remedy = "check the bucket or folder of the server's --artifacts-destination"
        requests = [getattr(getattr(link, "response", None), "request", None) for link in chain]
        if "Failed to list artifacts" in text:
            return Fault(NoArtifactsError, "the server's artifact store is not there (404)", remedy)
        kind = OF_ITEM if any(getattr(request, "method", "") == "PUT" for request in requests) else PERMANENT
        return Fault(kind, "the server's artifact store refused (404)", remedy)
    server = _server_message(text)
    cause, remedy = HTTP_STATUS.get(status, ("the server answered with an error", ""))
    cause = f"{cause} ({status})"
    if server and status not in (404, 413):
        cause = f"{cause}: {server}"
    passing = status in PASSING_STATUS or (status >= 500 and status != 501)  # noqa: PLR2004 - HTTP's own numbers
    permanent = OF_ITEM if status == 413 else PERMANENT  # noqa: PLR2004
    return Fault(PASSING if passing else permanent, cause, remedy)


def _http_status(chain: list[BaseException], text: str) -> int | None:
    """Return the status of an answer that MLflow did not give itself; MLflow's own are JSON and have an error code."""
    for link in chain:
        response = getattr(link, "response", None)
        status = getattr(response, "status_code", None)
        if isinstance(status, int) and status >= 400 and _family(link) == "requests":  # noqa: PLR2004
            return status
    found = re.search(r"failed with error code (\d{3}) != |too many (\d{3}) error responses", text)
    return int(found[1] or found[2]) if found else None


def _server_message(text: str) -> str:
    """Return the server's own words, if they are short and no web page."""
    found = re.search(r"Response (?:body|text): '?(.*)", text, re.DOTALL)
    words = found[1].strip().strip("'") if found else ""
    message = re.search(r'"message": *"([^"]+)"', words)
    words = message[1] if message else words
    return "" if not words or words.startswith(("<", "{")) or len(words) > 300 else words.splitlines()[0]  # noqa: PLR2004


def _connection_fault(chain: list[BaseException], text: str) -> Fault | None:
    names = {type(link).__name__ for link in chain}
    resolved = next((link for link in chain if isinstance(link, socket.gaierror)), None)
    if "SSLError" in names or "SSLCertVerificationError" in names:
        return _tls_fault(text)
    if "ProxyError" in names:
        return Fault(PASSING, "the HTTP proxy does not connect", "check HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
    if resolved or "NameResolutionError" in names:
        return Fault(PASSING, "the host name is not known", "check the tracking URI, and the network")
    if "TooManyRedirects" in names:
        return Fault(PERMANENT, "the server redirects without end", "check the tracking URI; a login page may be there")
    if names & {"InvalidURL", "InvalidSchema", "MissingSchema", "InvalidHeader", "LocationParseError"}:
        return Fault(PERMANENT, "the tracking URI or a credential in it is malformed", "correct it")
    if re.search(r"Read timed out|ConnectTimeout|timeout exception|timed? ?out", text) or "TimeoutError" in names:
        return Fault(PASSING, "no answer in time")
    number = re.search(r"\[Errno -?\d+\] ([^'\"()]+)|[Cc]onnection (refused|reset by peer|aborted)", text)
    if number and names & {
        *("ConnectionError", "MaxRetryError", "NewConnectionError", "ProtocolError"),
        *("ConnectionRefusedError", "ConnectionResetError"),
    }:
        return Fault(PASSING, (number[1] or f"connection {number[2]}").strip().lower())
    if names & {"DecodeError", "ContentDecodingError"}:
        return Fault(PASSING, "the answer is damaged: it cannot be unpacked")
    if any(isinstance(link, ConnectionError) for link in chain) or names & {"ChunkedEncodingError", "ProtocolError"}:
        return Fault(PASSING, "the connection broke off")
    return None


def _tls_fault(text: str) -> Fault:
    if "certificate verify failed" in text.lower():
        reason = re.search(r"certificate verify failed: ([^(]+)", text)
        remedy = "set MLFLOW_TRACKING_SERVER_CERT_PATH to the file of the authority that signed it"
        return Fault(PERMANENT, f"its certificate is not trusted ({reason[1].strip() if reason else 'TLS'})", remedy)
    if re.search(r"wrong version number|record layer failure|unknown protocol|http request", text, re.IGNORECASE):
        return Fault(PERMANENT, "it does not speak TLS at this port", "use http:// in the tracking URI")
    if re.search(r"EOF|reset|timed out", text):
        return Fault(PASSING, "the TLS connection broke off")
    found = re.search(r"\[SSL: (\w+)\]", text)
    return Fault(PERMANENT, f"TLS failed ({found[1].lower() if found else 'SSL error'})", "check its certificate")


def _cloud_fault(chain: list[BaseException], text: str) -> Fault | None:
    """Classify what an artifact store in a cloud answered."""
    link = next((one for one in chain if _family(one) in ("botocore", "boto3", "google", "azure", "s3transfer")), None)
    if link is None:
        return None
    code = re.search(r"An error occurred \((\w+)\)", text)
    name, store = code[1] if code else type(link).__name__, "the artifact store"
    status = getattr(link, "status_code", None) or getattr(link, "code", None)
    if re.search(r"NoCredentials|PartialCredentials|DefaultCredentials|CredentialRetrieval|ProfileNotFound", name):
        return Fault(OF_ITEM, f"there are no credentials for {store} ({name})", "set them where this program runs")
    if re.search(r"AccessDenied|Forbidden|SignatureDoesNotMatch|InvalidAccessKey|ExpiredToken|ClientAuth|^403$", name):
        return Fault(OF_ITEM, f"{store} denies access ({name})", "check the credentials, and their right to write")
    if re.search(r"NoSuchBucket|NotFound|^404$|EntityTooLarge|InvalidBucketName|ParamValidation", name):
        return Fault(OF_ITEM, f"{store} refused ({name})", "check the experiment's artifact location")
    if isinstance(status, int) and 400 <= status < 500 and status not in PASSING_STATUS:  # noqa: PLR2004
        return Fault(OF_ITEM, f"{store} refused ({name}, {status})")
    return Fault(PASSING, f"{store} does not answer ({name})")


def _name_fault(chain: list[BaseException]) -> Fault | None:
    """Classify a name that a file store cannot make a file of; MLflow calls that an internal error."""
    link = next((one for one in chain if isinstance(one, OSError) and one.errno in ITEM_ERRNO), None)
    return Fault(OF_ITEM, os.strerror(link.errno or 0), "give it another name") if link else None


def _database_fault(chain: list[BaseException], text: str) -> Fault | None:
    if not any(_family(one) in ("sqlalchemy", "alembic", "sqlite3", "psycopg", "psycopg2") for one in chain) and (
        "database schema" not in text
    ):
        return None
    if any(getattr(one, "sqlite_errorname", "") == "SQLITE_READONLY_DBMOVED" for one in chain):
        return Fault(PASSING, "the database file is not the one that was opened: it was moved, deleted or replaced")
    for pattern, fault in DATABASE_TEXTS:
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            detail = next(filter(None, found.groupdict().values()), "")
            return fault._replace(cause=fault.cause.format(detail=detail))
    if "unable to open database file" in text:
        return Fault(PASSING, "the database file cannot be opened", "check its folder, and the rights to it")
    refused = re.search(r"[Cc]onnection (refused|reset|timed out)|server closed the connection|starting up", text)
    if refused:
        return Fault(PASSING, "the database server does not answer")
    return Fault(PASSING, f"the database failed: {first_line(chain[-1])}")


def _mlflow_fault(chain: list[BaseException]) -> Fault | None:
    link = next((one for one in chain if _family(one) == "mlflow"), None)
    code = getattr(link, "error_code", None)
    if link is None or code is None:
        return None
    words = re.sub(rf"^{code}: ", "", first_line(link)).rstrip(".")
    if "'active' state" in words or "deleted state" in words:
        return Fault(PERMANENT, words, RESTORE)
    if (code == "RESOURCE_DOES_NOT_EXIST" and re.search(r"\b[Rr]un\b", words)) or "for parameter 'run_id'" in words:
        return Fault(RunMissingError, words)
    if code in ("CUSTOMER_UNAUTHORIZED", "UNAUTHENTICATED"):
        return Fault(PERMANENT, words, SEND_CREDENTIALS)
    if code == "PERMISSION_DENIED":
        return Fault(PERMANENT, words, EDIT_RIGHT)
    if code in ITEM_CODES:
        return Fault(OF_ITEM, words)
    return Fault(PERMANENT if code in PERMANENT_CODES else PASSING, words)


def _file_fault(chain: list[BaseException]) -> Fault | None:
    link = next((one for one in chain if isinstance(one, OSError)), None)
    if link is None:
        return None
    reason = os.strerror(link.errno) if link.errno else first_line(link)
    cause = f"{reason}: {link.filename}" if link.filename else reason
    if link.errno is None:  # PIL's, for a torn picture; or one of a connection
        return Fault(OF_ITEM if _family(link) in ("PIL", "builtins") else PASSING, cause)
    return Fault(PASSING if link.errno in PASSING_ERRNO else PERMANENT, cause)


def _odd_fault(error: BaseException) -> Fault:
    """Classify what no rule knows: what Python, PIL or numpy raise is about the value that they were given."""
    if "No data found" in str(error):  # the file store read a file that another thread was about to write
        return Fault(PASSING, first_line(error))
    is_value = isinstance(error, ValueError | TypeError | ArithmeticError | SyntaxError | LookupError | EOFError)
    of_item = is_value or _family(error) in ("PIL", "numpy", "struct", "zlib")
    return Fault(OF_ITEM if of_item else PASSING, f"{type(error).__name__}: {first_line(error)}")
