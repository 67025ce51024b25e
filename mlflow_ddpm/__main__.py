"""The command ``mlflow-ddpm``, and ``python -m mlflow_ddpm``, which the MLproject file starts."""

import signal
import sys


def main() -> int:
    """Run the command line; return the exit status. Modules are imported where an interrupt is caught."""
    try:
        from mlflow_ddpm.cli import main as command_line
        from mlflow_ddpm.cli.project_run import enter_callers_folder
    except KeyboardInterrupt:
        sys.stderr.write("mlflow-ddpm: error: interrupted\n")
        return 130
    enter_callers_folder()
    try:
        return command_line.main()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is printed: an interrupt of Python's exit is no traceback


if __name__ == "__main__":
    raise SystemExit(main())
