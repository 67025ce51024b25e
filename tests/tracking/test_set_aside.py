"""What a store does not take is set aside, and the rest is sent; but a store that is away is given everything again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from mlflow_ddpm.core.errors import ItemRefusedError, StoreError, StoreRefusedError, StoreUnavailableError
from mlflow_ddpm.core.metrics import Point
from mlflow_ddpm.storage.delivery_state import DeliveryState, StateFile
from mlflow_ddpm.tracking.set_aside import SetAside


class Store:
    """Takes all items together, or raises ``error`` if there is a bad one among them."""

    def __init__(self, bad: set[str], error: type[StoreError], *, is_there: bool = True) -> None:
        self.bad, self.error, self.is_there = bad, error, is_there
        self.items: list[str] = []
        self.calls = 0

    def take(self, items: Sequence[str]) -> None:
        """Take them or refuse them."""
        self.calls += 1
        if self.bad & set(items):
            raise self.error("no")
        self.items += items


def _sent(store: Store, items: Sequence[str], directory: Path, *, is_suspect: bool = False) -> dict[str, str]:
    file = StateFile(directory, DeliveryState(artifacts=["a file"]))
    aside = SetAside(file, lambda: store.is_there)
    aside.is_suspect = is_suspect
    try:
        aside.send(items, store.take, lambda item: f"tag {item}")
    except StoreError:
        assert file.state.set_aside == {}
        raise
    assert file.state.artifacts == ["a file"]
    return file.state.set_aside


@pytest.mark.parametrize(
    ("error", "is_suspect"),
    [(ItemRefusedError, False), (StoreRefusedError, False), (StoreUnavailableError, True)],
)
def test_all_but_what_is_refused_is_sent(error: type[StoreError], is_suspect: bool, tmp_path: Path) -> None:  # noqa: FBT001
    """Whether the store refuses it plainly, or fails on it for ever."""
    items, store = [str(number) for number in range(9)], Store({"3", "8"}, error)

    assert set(_sent(store, items, tmp_path, is_suspect=is_suspect)) == {"tag 3", "tag 8"}
    assert sorted(store.items) == ["0", "1", "2", "4", "5", "6", "7"]


@pytest.mark.parametrize(
    ("error", "is_suspect", "is_there"),
    [(StoreUnavailableError, False, True), (StoreRefusedError, False, False), (StoreUnavailableError, True, False)],
)
def test_a_store_that_is_away_has_nothing_set_aside(
    error: type[StoreError],
    is_suspect: bool,  # noqa: FBT001
    is_there: bool,  # noqa: FBT001
    tmp_path: Path,
) -> None:
    """A first outage, or one in which the store does not take a plain tag either."""
    with pytest.raises(error):
        _sent(Store({"3"}, error, is_there=is_there), ["3", "4"], tmp_path, is_suspect=is_suspect)


def test_items_that_all_fail_cost_a_dozen_requests(tmp_path: Path) -> None:
    """Then all of them are set aside."""
    items = [str(number) for number in range(100)]
    store = Store(set(items), StoreRefusedError)

    assert len(_sent(store, items, tmp_path)) == 100
    assert store.calls == 12


def test_points_that_are_all_refused_wait_for_the_store(tmp_path: Path) -> None:
    """They differ in their values alone: none of them is at fault."""
    file = StateFile(tmp_path, DeliveryState())
    aside = SetAside(file, lambda: True)

    def refuse(_: Sequence[Point]) -> None:
        raise StoreRefusedError("no")

    with pytest.raises(StoreRefusedError):
        aside.send([Point("loss", 1.0, 1, step) for step in range(3)], refuse, str)
    assert file.state.set_aside == {}
