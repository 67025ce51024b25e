"""The report as one HTML page: the same context as the Markdown, its pictures inside, no script, nothing to load.

For MLflow's artifact viewer, which shows a page in a sandbox and resolves no relative picture, and for mail. Every
foreign text is escaped; should one ever slip through, the page's own policy forbids scripts and addresses.
"""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from mlflow_ddpm.core.markdown import Code, Prose, one_line, safe_json
from mlflow_ddpm.reporting.context import ReportContext
from mlflow_ddpm.reporting.report_templates import load_template

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

__all__ = ["render_html"]


def render_html(context: ReportContext, read_picture: Callable[[str], bytes]) -> str:
    """Return the page's text; ``read_picture`` returns the content of a picture by its link."""
    return _template().render(report=context, read_picture=read_picture)


@cache
def _template() -> jinja2.Template:
    import jinja2

    @jinja2.pass_context
    def data_uri(context: jinja2.runtime.Context, link: str) -> Markup:
        return _data_uri(link, context["read_picture"](link))

    return load_template("report.html.j2", _insert, {"data_uri": data_uri, "json_text": _json_text})


def _insert(value: object) -> Markup:
    """Return a value as HTML; every kind of text has its own form."""
    from markupsafe import Markup, escape

    if isinstance(value, Markup):
        return value
    if isinstance(value, Code):
        return Markup("<code>{}</code>").format(one_line(value))
    if isinstance(value, Prose):
        parts = [
            Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(value.split("`"))
        ]
        return Markup("").join(parts)
    return escape(one_line(str(value)))


def _json_text(text: str) -> Markup:
    """Return JSON with its line breaks."""
    from markupsafe import escape

    return escape(safe_json(text))


def _data_uri(link: str, content: bytes) -> Markup:
    from markupsafe import Markup

    kind = mimetypes.types_map.get("." + link.rpartition(".")[2].lower(), "image/png")
    return Markup(f"data:{kind};base64,{base64.b64encode(content).decode()}")  # noqa: S704 - letters, digits, "+/="
