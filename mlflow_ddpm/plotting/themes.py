"""The two themes: style sheets over matplotlib's own defaults, and the fonts that a printed figure may have."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from mlflow_ddpm.core.errors import UsageError

THEMES = ("dark", "paper")
FONTS = ("", "serif", "sans")  # DejaVu Sans, like Times, like Helvetica
_SERIF = "STIXGeneral"  # comes with matplotlib
_SANS = ("Helvetica", "Nimbus Sans", "TeX Gyre Heros", "Liberation Sans", "Arimo", "Arial", "FreeSans", "Roboto")
_STYLES = Path(__file__).parent / "styles"


def check_choice(what: str, value: str, choices: Collection[str]) -> None:
    """Refuse a value that is not offered.

    Raises:
        UsageError: naming what is offered.
    """
    if value not in choices:
        raise UsageError(f"{what} must be one of {', '.join(filter(None, choices))}, got {value!r}")


def font_families(font: str) -> list[str]:
    """Return the families of a choice of font, best first; the last has the signs that the others may not have.

    Raises:
        UsageError: no such choice, or no font of the kind is installed.
    """
    check_choice("font", font, FONTS)
    if not font:
        return ["DejaVu Sans"]
    if font == "serif":
        return [_SERIF, "DejaVu Sans"]
    from matplotlib.font_manager import fontManager

    installed = {entry.name for entry in fontManager.ttflist}
    family = next((name for name in _SANS if name in installed), None)
    if family is None:
        raise UsageError(f"font 'sans' takes one of {', '.join(_SANS)}; none is installed, install one or choose serif")
    return [family, "DejaVu Sans"]


@contextmanager
def theme_context(theme: str, font: str = "") -> Iterator[None]:
    """Apply a theme's style sheet to matplotlib's own defaults, whatever the user's settings are, and take it back.

    Within itself it does nothing: going through all settings takes a twentieth of a figure's time.
    """
    from matplotlib import style

    check_choice("theme", theme, THEMES)
    if _present.get() == (theme, font):
        yield
        return
    families = font_families(font)
    token = _present.set((theme, font))
    try:
        with style.context([_sheet(theme), {"font.family": families}], after_reset=True):
            yield
    finally:
        _present.reset(token)


_present: ContextVar[tuple[str, str]] = ContextVar("theme", default=("", ""))  # whose settings are on


@cache
def _sheet(theme: str) -> Any:
    """Return a style sheet's settings; reading one takes as long as drawing a panel."""
    from matplotlib import rc_params_from_file

    settings: Any = rc_params_from_file(_STYLES / f"{theme}.mplstyle", use_default_template=False)
    return dict(settings)
