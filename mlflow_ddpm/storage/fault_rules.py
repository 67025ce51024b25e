"""What HTTP statuses, MLflow's error codes, packages and databases mean when they fail: cause and remedy of each."""

import errno
from typing import NamedTuple

from mlflow_ddpm.core.errors import ItemRefusedError, StoreError, StoreRefusedError, StoreUnavailableError


class Fault(NamedTuple):
    """What a failed call means. ItemRefusedError: what was sent was at fault, such as a value that is too long."""

    kind: type[StoreError]
    cause: str
    remedy: str = ""


PASSING, PERMANENT, OF_ITEM = StoreUnavailableError, StoreRefusedError, ItemRefusedError

# Answers that the same call will get again. All other codes may pass.
PERMANENT_CODES = frozenset(
    {
        "ALREADY_EXISTS",
        "CUSTOMER_UNAUTHORIZED",
        "ENDPOINT_NOT_FOUND",
        "NOT_FOUND",
        "NOT_IMPLEMENTED",
        "PERMISSION_DENIED",
        "RESOURCE_ALREADY_EXISTS",
        "RESOURCE_DOES_NOT_EXIST",
        "UNAUTHENTICATED",
    }
)
ITEM_CODES = frozenset({"BAD_REQUEST", "INVALID_PARAMETER_VALUE"})
PASSING_STATUS = frozenset({408, 409, 423, 425, 429})  # and every 5xx but 501
PASSING_ERRNO = frozenset(
    {errno.EAGAIN, errno.EBUSY, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ESTALE}
)
# Of one name in a file store: too long, or both a file and a folder.
ITEM_ERRNO = frozenset({errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST})
SEND_CREDENTIALS = (
    "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN: credentials in a tracking "
    "URI are not kept on disk"
)
EDIT_RIGHT = (
    "ask the experiment's owner for EDIT permission; behind a host check, start the server with --allowed-hosts"
)
# Cause, to which the status is added, and remedy.
HTTP_STATUS = {
    400: ("the server does not understand the request", "if its port speaks TLS, write https:// in the tracking URI"),
    401: ("the server asks for credentials, or does not accept these", SEND_CREDENTIALS),
    403: ("permission denied", EDIT_RIGHT),
    404: (
        "there is no MLflow at this address",
        "check the tracking URI; behind a path prefix (`mlflow server --static-prefix`) it ends with that prefix",
    ),
    405: (
        "what answers at this address is not MLflow, or sends the request elsewhere",
        "check the tracking URI: where a proxy redirects http:// to https://, write https://",
    ),
    407: ("the HTTP proxy asks for credentials", "put them into HTTPS_PROXY, or list the host in NO_PROXY"),
    413: (
        "a proxy in front of the server takes no request of this size",
        "raise its limit (nginx: client_max_body_size)",
    ),
    429: ("the server is asked too often", ""),
    502: ("a proxy answered that the server behind it is away", ""),
    503: ("the server, or a proxy in front of it, is not ready", ""),
    504: ("a proxy got no answer from the server behind it in time", ""),
    507: ("the server's disk is full", ""),
}
PACKAGES = {
    "boto3": "boto3",
    "botocore": "boto3",
    "google": "google-cloud-storage",
    "azure": "azure-storage-blob azure-identity",
    "psycopg": "'psycopg[binary]'",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "pymysql": "pymysql",
    "requests_auth_aws_sigv4": "requests-auth-aws-sigv4",
    "databricks": "databricks-sdk",
    "pysftp": "pysftp",
}
RESTORE = (
    "it was deleted: restore it in the UI, or with `mlflow runs restore --run-id ID` or `mlflow experiments restore -x "
    "ID`"
)
_HALF_MADE = Fault(
    PERMANENT,
    "its tables are half made: a program was stopped while it made or migrated them",
    "if the database holds no runs, delete it; else restore a backup, or try `mlflow db upgrade URI`",
)
# What databases and alembic say, and what it means; the pattern's groups are the cause's {detail}.
DATABASE_TEXTS = (
    (r"database( table)? is locked|lock timeout|deadlock", Fault(PASSING, "another program has locked the database")),
    (
        r"database or disk is full|No space left",
        Fault(PASSING, "the disk under the database is full", "free some space"),
    ),
    (
        r"readonly database|read-only (transaction|file system)",
        Fault(
            PERMANENT, "the database cannot be written", "make the file and its folder writable, or name another store"
        ),
    ),
    (
        r"file is not a database|malformed|file is encrypted",
        Fault(PERMANENT, "the file is damaged, or no sqlite database", "restore a backup, or name another store"),
    ),
    (
        r"Can't locate revision identified by '?(?P<detail>\w+)",
        Fault(
            PERMANENT,
            "a newer MLflow made this database (schema {detail})",
            "upgrade MLflow here (pip install -U mlflow), or name another store",
        ),
    ),
    (r"found version None", _HALF_MADE),
    (
        r"out-of-date database schema \(found version (?P<detail>\w+)",
        Fault(
            PERMANENT,
            "another version of MLflow made this database (schema {detail})",
            "make a backup, then `mlflow db upgrade URI`; or use the version of MLflow that made it",
        ),
    ),
    (
        r"_alembic_tmp_|duplicate column name|already exists|expected to match one row|no such (table|column|index)",
        _HALF_MADE,
    ),
    (r"relation \"?[\w.]+\"? does not exist|table '?[\w.]+'? doesn't exist", _HALF_MADE),
    (
        r"password authentication failed|Access denied for user|no password supplied|role \"[^\"]*\" does not exist",
        Fault(
            PERMANENT,
            "the database does not accept these credentials",
            "check the user and the password in the tracking URI",
        ),
    ),
    (
        r"database \"(?P<detail>[^\"]+)\" does not exist|Unknown database '(?P<other>[^']+)'",
        Fault(PERMANENT, "the database server has no database {detail}", "create it, or correct the tracking URI"),
    ),
    (
        r"permission denied",
        Fault(PERMANENT, "the database user does not have the right", "grant it, or use another user"),
    ),
)
# What MLflow's own messages mean, whatever their code: a mistake, its cause, and the remedy.
KNOWN_TEXTS = (
    (
        r"maintenance mode|file store",
        "MLflow's file store needs a switch",
        (
            "a ./mlruns folder with data in it makes MLflow choose its file store: set MLFLOW_ALLOW_FILE_STORE=true "
            "to use it, or MLFLOW_TRACKING_URI=sqlite:///mlflow.db to use a database"
        ),
    ),
    (
        r"Unity Catalog tracking URI",
        "a Unity Catalog is a model registry, not a tracking store",
        "track to databricks, and set MLFLOW_REGISTRY_URI to databricks-uc",
    ),
    (
        r"Databricks credential configuration|cannot configure default credentials|OAuth authentication using",
        "there are no Databricks credentials",
        "set DATABRICKS_HOST and DATABRICKS_TOKEN, or run `databricks configure`",
    ),
    (
        r"Not a proper models:/ URI|No versions of model with name",
        "the store has no such model",
        "name it as models:/NAME/VERSION, models:/NAME@ALIAS or models:/ID",
    ),
    (
        r"Could not find a registered artifact repository",
        "the run's artifacts have an address of a kind that MLflow does not know here",
        "install the plug-in that knows it, or correct the experiment's artifact location",
    ),
    (
        r"unsupported URI|Invalid (SQLite URL|url|IPv6)|No connection adapters|Failed to parse: |not parse SQLAlchemy",
        "this is not a tracking URI",
        "use http(s)://HOST, sqlite:///FILE, postgresql://..., databricks, or a folder",
    ),
)
