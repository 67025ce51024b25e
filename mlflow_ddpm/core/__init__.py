"""What every room stands on: no I/O but one atomic write, no import of ours."""
