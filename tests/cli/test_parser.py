"""The parser behind every command: names that are nearly right, values that are wrong."""

from __future__ import annotations

import argparse

import pytest

from mlflow_ddpm.cli.main import build_parser, main
from mlflow_ddpm.cli.parser import choice, given, nearest, number, typed
from mlflow_ddpm.ddpm.config.config import options
from mlflow_ddpm.ddpm.config.fields import Option


def test_without_arguments_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """As ``--help`` does."""
    assert main([]) == 0

    text = capsys.readouterr().out
    assert text == build_parser().format_help()
    assert "mlflow-ddpm COMMAND --help" in text


@pytest.mark.parametrize("option", options(), ids=lambda option: option.flag)
def test_every_misspelt_training_option_finds_its_name(option: Option, capsys: pytest.CaptureFixture[str]) -> None:
    """One letter left out, or a letter twice."""
    flag = option.flag
    for wrong in {flag + flag[-1], *([flag[:-2] + flag[-1] + "q"] if len(flag) > len("--lr") else [])}:
        with pytest.raises(SystemExit) as end:
            build_parser().parse_args(["train", wrong, "1"])

        assert end.value.code == 2
        assert f"train has no option {wrong}; did you mean --" in capsys.readouterr().err


@pytest.mark.parametrize("option", options(), ids=lambda option: option.flag)
def test_every_training_option_names_what_it_wants(option: Option, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, without the usage; its default is a value that it takes."""
    flag, default = option.flag, option.default_text
    assert build_parser().parse_args(["train", flag, default])
    if flag == "--data-dir":
        return
    with pytest.raises(SystemExit):
        build_parser().parse_args(["train", flag, "no such value"])

    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mlflow-ddpm: error: {flag}: expected ")
    assert "got 'no such value'" in line


def test_an_unambiguous_beginning_of_an_option_is_taken() -> None:
    """As argparse does."""
    assert build_parser().parse_args(["train", "--epo", "3"]).epochs == 3


def test_words_after_two_dashes_and_negative_numbers_are_no_options() -> None:
    """A directory may be called ``--x``, a number may be below zero."""
    parse = build_parser().parse_args

    assert parse(["status", "--", "--x"]).directories == ["--x"]
    assert parse(["train", "--lr", "-1"]).lr == -1.0
    assert parse(["sample", "out", "--seed", "-3"]).seed == -3


@pytest.mark.parametrize(
    ("parse", "right", "wrong"),
    [
        (choice("dark", "paper"), ["dark", "paper"], ["Dark", "", "dark,paper"]),
        (number(1, int), ["1", "99"], ["0", "-1", "1.5", "", "x", "1e3", "inf"]),
        (number(0), ["0", "1.5", "1e3"], ["-0.1", "nan", "inf", "", "x"]),
        (typed(int, "a whole number"), ["-3"], ["x", "1.0"]),
        (given, ["x", " "], [""]),
    ],
)
def test_values_are_taken_or_explained(parse: object, right: list[str], wrong: list[str]) -> None:
    """The error names what was expected and what came."""
    assert callable(parse)
    for text in right:
        parse(text)
    for text in wrong:
        with pytest.raises(argparse.ArgumentTypeError, match=r"expected .*, got "):
            parse(text)


def test_only_a_near_name_is_suggested() -> None:
    """A wrong suggestion is worse than none."""
    names = ["--epochs", "--batch-size", "--seed"]

    assert nearest("--epoch", names) == "--epochs"
    assert nearest("--BATCH-SIZE", names) == "--batch-size"
    assert nearest("--frobnicate", names) is None
    assert nearest("", names) is None
