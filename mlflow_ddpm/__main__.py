"""``python -m mlflow_ddpm``: the same as the command ``mlflow-ddpm``."""

from mlflow_ddpm.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
