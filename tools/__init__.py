"""Command lines over `pipelines` and `training`."""

import training  # noqa: F401 - first of all, for it says how PyTorch's OpenMP threads wait
