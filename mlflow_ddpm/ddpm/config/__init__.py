"""The options of the pipeline, their groups and presets."""
