"""Windows of steps: which row a step belongs to, in a loop that has no epochs.

A window ends when the number of steps done is a multiple of ``every_n_steps``; that number is its row's. The first
window of a process may begin in the middle, after a resume, and the last one may be short: such rows are partial.
"""

from typing import Any, Self

from mlflow_ddpm.core.errors import UsageError
from mlflow_ddpm.core.metrics import whole_number


class StepWindows:
    """Assigns steps to windows, in rising order.

    Attributes:
        steps_done: steps done after the last one noted; 0 before the first.
        began: steps done when the open window began.
    """

    def __init__(self, every: int) -> None:
        self.every, self.steps_done, self.began = every, 0, 0
        self.has_steps = False  # a window is open, and a step was done in it
        self._has_begun = self._is_resumed_inside = False
        self._first = 0  # steps done after the first one noted, until the second one comes

    @classmethod
    def create(cls, every_n_steps: Any) -> Self | None:
        """Return windows of this length, None where the loop counts epochs; raise UsageError unless above 0."""
        if every_n_steps is None:
            return None
        return cls(whole_number("every_n_steps", every_n_steps, 1))

    def check(self, step: Any) -> int:
        """Return the steps done after a step; raise UsageError if it is not a whole number, or does not rise."""
        done = whole_number("step", step) + 1
        if done <= self.steps_done:
            raise UsageError(
                f"step must rise from call to call, got {step} after {self.steps_done - 1}; log each step once, "
                "counted from 0 over the whole run"
            )
        return done

    def overdue(self, done: int) -> int | None:
        """Return the number of the open window if it ended before this step, which skipped its last ones."""
        if self._first:  # a loop that logs every tenth step left none out before the first one that it logged
            self._is_resumed_inside &= (self._first - 1) % self.every >= done - self._first
            self._first = 0
        return self.window_end if self.has_steps and self.steps_done < self.window_end < done else None

    @property
    def window_end(self) -> int:
        """The number of steps done at which the window of the last step ends."""
        return -(-self.steps_done // self.every) * self.every

    def begin(self, done: int) -> None:
        """Note the steps done before the process' first one: after a resume it may lie inside a window."""
        if not self._has_begun:
            self._has_begun, self._is_resumed_inside, self.began = True, done % self.every != 0, done

    def note(self, done: int) -> bool:
        """Note a step; return whether the window ends at it."""
        if not self._has_begun:
            self.begin(done - 1)
            self._first = done
        self.steps_done, self.has_steps = done, True
        return done % self.every == 0

    def is_partial(self, number: int) -> bool:
        """Return whether the open window, ended at this number of steps, is a part of one."""
        return self._is_resumed_inside or number % self.every != 0

    def end(self, number: int) -> None:
        """End the open window, whose row is written: one that failed is tried again, or named, when the run ends."""
        self.has_steps = self._is_resumed_inside = False
        self.began = number
