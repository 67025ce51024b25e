"""The trained model as files: saved, loaded, logged to MLflow."""
