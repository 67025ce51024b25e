"""Count the floors of the house: ``python tests/support/floors.py`` prints the rooms of each, and its lines of code."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "mlflow_ddpm"


def room_of(path: Path) -> str:
    """Return the room of a file: its entry in the package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def imports() -> dict[str, set[str]]:
    """Return the rooms that each room imports, anywhere in its code."""
    rooms: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        found = rooms.setdefault(room_of(path), set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mlflow_ddpm."):
                found.add(node.module.split(".")[1])
        found.discard(room_of(path))
    return rooms


@cache
def floor_of(room: str) -> int:
    """Return how many rooms stand below one another under this one; a circle has no end, and is an error."""
    return 1 + max((floor_of(below) for below in imports()[room]), default=-1)


def main() -> None:
    """Print the table, the lowest floor first."""
    floors = {room: floor_of(room) for room in imports()}
    files = [(room_of(path), len(path.read_text(encoding="utf-8").splitlines())) for path in PACKAGE.rglob("*.py")]
    for floor in range(max(floors.values()) + 1):
        for room in sorted(name for name, number in floors.items() if number == floor):
            lines = [count for name, count in files if name == room]
            print(f"{floor}  {room:<13}{len(lines):>4} files{sum(lines):>7} lines")
    arrows = sum(map(len, imports().values()))
    print(f"{max(floors.values()) + 1} floors, {arrows} arrows, {sum(count for _, count in files)} lines")


if __name__ == "__main__":
    main()
