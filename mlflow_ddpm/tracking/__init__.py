"""One run being measured, written and uploaded."""
