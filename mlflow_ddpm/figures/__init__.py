"""Panels: each draws one view of a history on axes it is given. Building figures is ``mlflow_ddpm.plots``."""
