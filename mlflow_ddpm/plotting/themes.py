"""The two themes: style sheets over matplotlib's own defaults, and the fonts that a printed figure may have."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

from mlflow_ddpm.core.errors import UsageError

THEMES = ("dark", "paper")
FONTS = ("", "serif", "sans")  # DejaVu Sans, like Times, like Helvetica
_SERIF = "STIXGeneral"  # comes with matplotlib
_SANS = ("Helvetica", "Nimbus Sans", "TeX Gyre Heros", "Liberation Sans", "Arimo", "Arial", "FreeSans", "Roboto")
# Runs have names in any script. Fonts of TrueType outlines come first: PDF readers take those of the others less well.
_OTHER_SCRIPTS = (
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Microsoft YaHei",
    "Yu Gothic", "Malgun Gothic", "Arial Unicode MS", "Heiti TC", "PingFang SC", "Hiragino Sans",
    "Apple SD Gothic Neo", "Noto Sans CJK JP", "Noto Sans CJK SC", "Source Han Sans SC", "Source Han Sans CN",
    "Noto Emoji", "Symbola", "Segoe UI Emoji", "Segoe UI Symbol", "Nirmala UI", "Noto Sans Devanagari",
    "Leelawadee UI", "Noto Sans Thai",
)  # fmt: skip
_STYLES = Path(__file__).parent / "styles"


def check_choice(what: str, value: str, choices: Collection[str]) -> None:
    """Raise UsageError for a value that is not offered."""
    if value not in choices:
        raise UsageError(f"{what} must be one of {', '.join(filter(None, choices))}, got {value!r}")


def setting(name: str) -> Any:
    """Return the present value of a setting of matplotlib: a theme's within :func:`theme_context`.

    Matplotlib loads at the first call, so that importing the panels does not load it.
    """
    from matplotlib import rcParams

    settings: Any = rcParams
    return settings[name]


def font_families(font: str) -> list[str]:
    """Return the installed families of a choice of font, best first; the later ones have what the first does not.

    Raises:
        UsageError: no such choice, or no font of the kind is installed.
    """
    check_choice("font", font, FONTS)
    chosen, others = [_SERIF] if font == "serif" else [], _installed(_OTHER_SCRIPTS)
    if font == "sans":
        chosen = _installed(_SANS)[:1]
        if not chosen:
            add_new_fonts()
            chosen = _installed(_SANS)[:1]
        if not chosen:
            names = ", ".join(_SANS)
            raise UsageError(f"font 'sans' takes one of {names}; none is installed, install one or choose serif")
    return [*chosen, "DejaVu Sans", *others]


def _installed(families: Sequence[str]) -> list[str]:
    from matplotlib.font_manager import fontManager

    installed = {entry.name for entry in fontManager.ttflist}
    return [family for family in families if family in installed]


@cache
def add_new_fonts() -> None:
    """Find the fonts that were installed since matplotlib made its list, which it keeps for good."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    known = {entry.fname for entry in fontManager.ttflist}
    for path in set(findSystemFonts()) - known:
        with suppress(OSError, RuntimeError):  # one that matplotlib cannot draw, such as letters made of pixels
            fontManager.addfont(path)


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
