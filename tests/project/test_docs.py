"""README and docs are kept honest: their code runs, their commands parse, their tables are those of the code."""

from __future__ import annotations

import ast
import builtins
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.common import ROOT
from support.doc_pages import PAGES, PLACEHOLDERS, STAND_INS, blocks_of, commands_of, setup_of
from support.doc_tables import TABLES, with_tables
from support.torchrun import torchrun

from mlflow_ddpm.analysis.findings.rules import RULES
from mlflow_ddpm.cli.main import build_parser

QUESTIONS = [
    *("architecture", "command-line", "costs", "emnist", "findings", "guarantees", "hub", "metrics", "mlflow"),
    *("paper-figures", "secrets", "your-loop"),
]
BY_NAME = {page.stem: page for page in PAGES}
NAMES = [page.name for page in PAGES]
# Words of house/names.md that a reader stops at.
BANNED = re.compile(
    r"\b(?:told|tells|says|goes on|go on|has not got|have not got|is none|somebody|nobody|in words|so many|lacks|"
    r"without a word|courier|cursor|judge|learner|endings)\b",
    re.IGNORECASE,
)
# A number with a unit of time, size or share: a figure that was measured.
FIGURE = re.compile(r"\d (?:µs|ms|s|%|M|min)\b")


def text_of(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


def test_there_is_a_page_for_each_question() -> None:
    """And the README links to it."""
    readme = text_of(BY_NAME["README"])

    assert [] == [name for name in QUESTIONS if name not in BY_NAME]
    assert [] == [page.name for page in PAGES[1:] if f"](docs/{page.name})" not in readme and page.stem in QUESTIONS]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_page_is_short(page: Path) -> None:
    """The README is read in three minutes, a page in five; the command line's page is as long as its help."""
    text = text_of(page)

    if page.stem == "README":
        assert len(text.encode()) <= 9000
    elif page.stem != "command-line":
        assert len(text.splitlines()) < 150
    assert text.startswith("# ")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Pages, pictures, folders and headings of this repository exist."""
    for target in re.findall(r'(?:\]\(|src=")([^)#"]+)', text_of(page)):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_no_word_makes_a_reader_stop(page: Path) -> None:
    """A short list; readers find the rest."""
    assert [] == BANNED.findall(text_of(page))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_a_table_of_figures_names_its_command(page: Path) -> None:
    """In the section that the table stands in, or before the first one."""
    command = re.compile(r"`[^`]*(?:python tests/|pytest|mlflow-ddpm)[^`]*`")
    head, *sections = re.split(r"^## ", text_of(page), flags=re.MULTILINE)
    for section in sections:
        rows = [line for line in section.splitlines() if line.startswith("|") and FIGURE.search(line)]
        if rows and page.stem not in ("guarantees", "metrics", "findings"):
            assert command.search(section) or command.search(head), rows[0]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_parses(page: Path) -> None:
    """Those in blocks and those in sentences; what is written in capitals stands for something of the reader's."""
    for arguments in [*commands_of(page), *commands_of(page, inline=True)]:
        build_parser().parse_args([PLACEHOLDERS.get(word, word) for word in arguments])


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_script_and_test_that_is_named_exists(page: Path) -> None:
    """As ``tests/faults/test_kill.py::test_...``, a function of that file."""
    for path, function in re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", text_of(page)):
        source = (ROOT / path).read_text(encoding="utf-8")
        if function:
            assert function in {n.name for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef)}, function


def test_each_guarantee_names_its_test() -> None:
    """No row without one."""
    rows = [line for line in text_of(BY_NAME["guarantees"]).splitlines() if line.startswith("| ")]
    promises = [row for row in rows if not row.endswith("| shown by |")]

    assert len(promises) > 20
    assert [] == [row for row in promises if not re.search(r"\| `tests/[\w/]+\.py::test_\w+` \|$", row)]


def test_the_tables_are_those_of_the_code() -> None:
    """Metrics with unit and meaning, the pipeline's extras, and the rules with their thresholds."""
    for (name, _), lines in TABLES.items():
        text = text_of(BY_NAME[Path(name).stem])
        assert "\n".join(["|---|---|---|", *lines, ""]) in text
        assert with_tables(name, text) == text
    assert f"[{_IN_WORDS[len(RULES)]} rules]" in text_of(BY_NAME["README"])


_IN_WORDS = {14: "Fourteen", 15: "Fifteen", 16: "Sixteen", 17: "Seventeen", 18: "Eighteen"}


# The code of docs/sweeps.md runs in tests/publishing/test_families.py.
WITH_PYTHON = [page for page in PAGES if blocks_of(page, "python") and page.stem != "sweeps"]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_a_block_can_be_copied_alone(page: Path) -> None:
    """It imports what it uses; only what the page calls the reader's own comes from elsewhere."""
    for block in blocks_of(page, "python"):
        code = ast.parse(block.code)
        names = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}

        assert names <= _bound(code) | _imported(code) | READERS_OWN | set(dir(builtins)), block.code


def _bound(code: ast.AST) -> set[str]:
    stored = {n.id for n in ast.walk(code) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return stored | {n.name for n in ast.walk(code) if isinstance(n, ast.FunctionDef)}


def _imported(code: ast.AST) -> set[str]:
    imports = [n for n in ast.walk(code) if isinstance(n, ast.Import | ast.ImportFrom)]
    return {alias.asname or alias.name.split(".")[0] for statement in imports for alias in statement.names}


READERS_OWN = _bound(ast.parse(STAND_INS)) | {"lightning_module", "hf_trainer"}


@pytest.mark.slow
def test_every_python_block_runs(empty_database: Path) -> None:
    """A page's one after the other, on tiny stand-ins for what is the reader's own."""
    blocks = {page: [b.code for b in blocks_of(page, "python") if not b.is_distributed] for page in WITH_PYTHON}

    _run({page: setup_of(page) + "\n".join(codes) for page, codes in blocks.items()}, empty_database)


DISTRIBUTED = [(p, n) for p in PAGES for n, block in enumerate(blocks_of(p, "python")) if block.is_distributed]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "number"), DISTRIBUTED, ids=[f"{page.stem}-{number}" for page, number in DISTRIBUTED])
def test_every_distributed_block_runs(page: Path, number: int, sqlite_uri: str) -> None:
    """In as many processes as its comment asks for; one run comes of it."""
    block = blocks_of(page, "python")[number]
    leave = "\nimport os\nos._exit(0)  # torch 2.13 can abort while it takes a DDP model down\n"
    Path("train.py").write_text(STAND_INS + block.code + leave, encoding="utf-8")
    with torchrun(Path.cwd(), block.processes, "train.py") as job:
        job.end()

    assert job.agent.returncode == 0, job.log
    assert len(Path("my_metrics/training_metrics.csv").read_text(encoding="utf-8").splitlines()) == 3


@pytest.mark.slow
def test_every_quick_command_runs(empty_database: Path) -> None:
    """In a directory with a run of each name that the pages use; a training is parsed only."""
    _run({page: calls for page in PAGES if (calls := _calls_of(page))}, empty_database)


def _calls_of(page: Path) -> str:
    """Return code that runs a page's commands after what they need, or nothing if it has none."""
    calls = [
        f'assert main([{{"RUN_ID": RUN_ID, "URI": "sqlite:///mlflow.db"}}.get(w, w) for w in {arguments!r}]) == 0\n'
        for arguments in ([PLACEHOLDERS.get(word, word) for word in line] for line in commands_of(page))
        if arguments[0] != "train" and not arguments[1].startswith("models:")  # nothing was registered
    ]

    return setup_of(page) + "from mlflow_ddpm.cli.main import main\n" + "".join(calls) if calls else ""


def _run(codes: dict[Path, str], database: Path) -> None:
    """Run each page's code in a folder and a process of its own."""
    for page, code in codes.items():
        folder = Path(page.stem).absolute()
        folder.mkdir()
        shutil.copy(database, folder / "mlflow.db")
        (folder / page.with_suffix(".py").name).write_text(code, encoding="utf-8")
    scripts = [str(Path(page.stem, page.with_suffix(".py").name).absolute()) for page in codes]
    command = [sys.executable, str(ROOT / "tests" / "support" / "run_forked.py"), *scripts]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    env["MLFLOW_TRACKING_URI"] = "sqlite:///mlflow.db"
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=env, timeout=600)

    assert done.returncode == 0, done.stderr[-20_000:]
