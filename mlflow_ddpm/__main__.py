"""``python -m mlflow_ddpm``: the same as the command ``mlflow-ddpm``, and what the MLproject file starts."""

from mlflow_ddpm.cli.main import main
from mlflow_ddpm.cli.project_run import enter_callers_folder

if __name__ == "__main__":
    enter_callers_folder()
    raise SystemExit(main())
