"""Command lines over `pipelines` and `training`."""
