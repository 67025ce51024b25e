"""The parser of every command: short usage, and one line for each mistake, with the nearest right name."""

import argparse
import difflib
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from mlflow_ddpm.cli.terminal import print_error

_NEEDS_VALUE = re.compile(r"expected (?:one|at least one) arguments?")
_TAKES_NONE = "ignored explicit argument "
_ALIKE = 4  # first letters that make a longer name alike
_DASHES = ("\N{EN DASH}", "\N{EM DASH}")  # word processors make one of two hyphens


class CommandParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that prints one line for a mistake, without the usage, and exits with 2."""

    def parse_known_args(  # type: ignore[override] # argparse accepts any object as the namespace
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse all arguments; those that are unknown are an error here, where the command is known."""
        words = list(sys.argv[1:] if args is None else args)
        self._check_names(words)
        values, unknown = super().parse_known_args(words, namespace)
        if unknown:
            word = unknown[0]
            what = "option" if word.startswith(("-", *_DASHES)) else "further argument"
            meant = f"--{word[1:]}" if word.startswith(_DASHES) else ""
            advice = f"did you mean {meant}?" if meant in self._option_string_actions else f"see `{self.prog} --help`"
            self.error(f"{self._name} takes no {what} {word}; {advice}")
        return values, []

    def error(self, message: str) -> NoReturn:
        """Print argparse's complaint in our form, and exit."""
        message = message.removeprefix("argument ")
        missing = message.removeprefix("the following arguments are required: ")
        if missing != message:
            message = f"{self._name} needs {missing}; see `{self.prog} --help`"
        name, _, rest = message.partition(": ")
        if _NEEDS_VALUE.fullmatch(rest):
            message = f"{name} needs a value: {self._value_of(name)}"
        elif rest.startswith(_TAKES_NONE):
            message = f"{name} takes no value, got {rest.removeprefix(_TAKES_NONE)}"
        print_error(message)
        self.exit(2)

    def _check_names(self, words: Sequence[str]) -> None:
        """Refuse a misspelt option before a missing argument is noticed, which may follow from it."""
        commands = self._commands()
        for word in words:
            if word == "--" or (commands and not word.startswith("-")):
                break
            name = word.partition("=")[0]
            if word.startswith("--") and not any(known.startswith(name) for known in self._option_string_actions):
                self._refuse("option", name, [known for known in self._option_string_actions if known[1] == "-"])
        first = next((word for word in words if word == "-" or not word.startswith("-")), None)
        if commands and first is not None and first not in commands:
            self._refuse("command", first, commands)

    def _refuse(self, kind: str, name: str, known: Sequence[str]) -> NoReturn:
        near = nearest(name, known)
        advice = f"did you mean {near}?" if near else f"see `{self.prog} --help`"
        self.error(f"{self._name} has no {kind} {name}; {advice}")

    @property
    def _name(self) -> str:
        return self.prog.rpartition(" ")[2]

    def _commands(self) -> list[str]:
        actions = [action for action in self._actions if action.nargs == argparse.PARSER]
        return [name for action in actions for name in action.choices or ()]

    def _value_of(self, name: str) -> str:
        action = next(a for a in self._actions if name in ("/".join(a.option_strings), a.metavar, a.dest))
        return f"{action.option_strings[-1]}={action.metavar}" if action.option_strings else str(action.metavar)


def choice(*names: str) -> Callable[[str], str]:
    """Return a parser of one of several names."""

    def parse(text: str) -> str:
        if text in names:
            return text
        near = nearest(text, names, likeness=0.8)  # cpu is not what gpu was meant to be
        hint = f"; did you mean {near}?" if near else ""
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(names)}, got {text!r}{hint}")

    return parse


def choices(*names: str) -> Callable[[str], tuple[str, ...]]:
    """Return a parser of one or more of several names, joined by commas."""
    parse_name = choice(*names)

    def parse(text: str) -> tuple[str, ...]:
        parts = [part.strip() for part in text.split(",") if part.strip()] or [text]
        return tuple(dict.fromkeys(parse_name(part) for part in parts))

    return parse


def typed(parse: Callable[[str], Any], noun: str) -> Callable[[str], Any]:
    """Return a parser whose error names what is wanted; ``parse`` raises ValueError."""

    def parse_or_explain(text: str) -> Any:
        try:
            return parse(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected {noun}, got {text!r}") from None

    return parse_or_explain


def given(text: str) -> str:
    """Return a name or a path; an empty one comes from a shell variable that is not set."""
    if text:
        return text
    raise argparse.ArgumentTypeError("expected a name, got ''; is a shell variable empty?")


def folder(text: str) -> str:
    """Return the path of a directory that can be made, or is there already."""
    path = Path(given(text))
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    if file is None:
        return text
    raise argparse.ArgumentTypeError(f"{file} is a file; expected a directory")


def number(least: float, parse: Callable[[str], float] = float) -> Callable[[str], Any]:
    """Return a parser of finite numbers from ``least`` on; with ``int``, of whole ones."""

    def checked(text: str) -> float:
        value = parse(text)
        if not least <= value < math.inf:
            raise ValueError
        return value

    return typed(checked, f"a {'whole ' if parse is int else ''}number >= {least:g}")


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str | None:
    """Return the known name that a misspelt one is closest to, None if none is close."""
    bare = {text.lstrip("-"): text for text in known}
    wanted = name.lower().lstrip("-")
    close = difflib.get_close_matches(wanted, bare, n=1, cutoff=likeness) or [
        text
        for text in bare
        if (wanted and text.startswith(wanted[:_ALIKE]))
        or (len(wanted) >= _ALIKE and text.endswith(wanted))
        or _initials(wanted) == text
        or _initials(text) == wanted
    ]
    return bare[close[0]] if close else None


def _initials(name: str) -> str:
    """Return the first letters of a name's words: those of learning-rate are lr."""
    return "".join(word[0] for word in re.split("[-_/]", name) if word)
