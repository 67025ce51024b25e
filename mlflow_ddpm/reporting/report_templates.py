"""How the report's templates are read: the same rules for both forms, which differ in how they insert a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

__all__ = ["load_template"]


def load_template(name: str, insert: Callable[[Any], str], filters: dict[str, Any]) -> jinja2.Template:
    """Return a template in which a name that does not exist is an error, and ``insert`` escapes every value.

    In HTML jinja's own escaping goes over what ``insert`` returns; it leaves ``Markup`` alone.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mlflow_ddpm.reporting"),
        undefined=jinja2.StrictUndefined,
        autoescape=name.endswith(".html.j2"),
        finalize=insert,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
