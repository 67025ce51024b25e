"""The commands of ``mlflow-ddpm``, one to a file: its options, and what it does with them. Nothing heavy at import."""
