"""The report as Markdown and as one HTML page: the same context, every foreign text escaped. Loads all templates.

The HTML page has its pictures inside, no script and nothing to load: for MLflow's artifact viewer, which shows a page
in a sandbox and resolves no relative picture, and for mail. Should an escape ever be missed, the page's own policy
forbids scripts and addresses.
"""

from __future__ import annotations

import base64
import contextlib
import mimetypes
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from mlflow_ddpm.core.markdown import (
    Code,
    Markdown,
    Prose,
    code,
    escape,
    fence,
    image_link,
    json_block,
    one_line,
    safe_json,
    table,
)
from mlflow_ddpm.reporting.context import ReportContext
from mlflow_ddpm.reporting.model_card import yaml_header

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

_MOST_PIXELS = 20_000_000  # of a plot that the page has in fewer colours; the largest of ours has 5 million


def render_markdown(context: ReportContext) -> str:
    """Return the report's text."""
    return markdown_template("report.md.j2").render(report=context)


@cache
def markdown_template(name: str) -> jinja2.Template:
    """Return a template of Markdown, in which every text that is not Markdown already is escaped."""
    filters: dict[str, Any] = {
        "yaml_header": yaml_header,
        "table": table,
        "listed": lambda values: Markdown(", ".join(map(escape, values))),
        "json_block": json_block,
        "fence": fence,
        "code": code,
        "image_link": image_link,
        "picture": lambda figure: image_link(figure.link, figure.title),
    }
    return _load_template(name, lambda value: escape(value if isinstance(value, str) else str(value)), filters)


def render_html(context: ReportContext, read_picture: Callable[[str], bytes]) -> str:
    """Return the page's text; ``read_picture`` returns the content of a picture by its link."""
    return _html_template().render(report=context, read_picture=read_picture)


@cache
def _html_template() -> jinja2.Template:
    import jinja2
    from markupsafe import Markup
    from markupsafe import escape as escape_html

    @jinja2.pass_context
    def data_uri(context: jinja2.runtime.Context, link: str) -> Markup:
        kind = mimetypes.types_map.get("." + link.rpartition(".")[2].lower(), "image/png")
        content = base64.b64encode(context["read_picture"](link)).decode()
        return Markup(f"data:{kind};base64,{content}")  # noqa: S704 - letters, digits, "+/="

    filters = {"data_uri": data_uri, "json_text": lambda text: escape_html(safe_json(text))}  # JSON keeps its lines
    return _load_template("report.html.j2", _as_html, filters)


def _as_html(value: object) -> Markup:
    """Return a value as HTML; every kind of text has its own form."""
    from markupsafe import Markup
    from markupsafe import escape as escape_html

    if isinstance(value, Markup):
        return value
    if isinstance(value, Code):
        return Markup("<code>{}</code>").format(one_line(value))
    if isinstance(value, Prose):
        parts = [
            Markup("<code>{}</code>").format(part) if i % 2 else escape_html(part)
            for i, part in enumerate(value.split("`"))
        ]
        return Markup("").join(parts)
    return escape_html(one_line(str(value)))


def with_palette(content: bytes) -> bytes:
    """Return a plot's picture in 256 colours, a third as large; as it is if it is transparent, very large or no PNG."""
    from PIL import Image

    file = BytesIO()
    # suppressed is what Pillow raises for a file that was found there
    with contextlib.suppress(Exception), Image.open(BytesIO(content), formats=("PNG",)) as picture:
        if picture.mode == "RGB" and picture.width * picture.height <= _MOST_PIXELS:
            picture.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(file, "PNG")
    return min(file.getvalue() or content, content, key=len)


def _load_template(name: str, insert: Callable[[Any], str], filters: dict[str, Any]) -> jinja2.Template:
    """Return a template in which a name that does not exist is an error, and ``insert`` escapes every value.

    In HTML jinja's own escaping is applied to what ``insert`` returns; it leaves ``Markup`` alone.
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
