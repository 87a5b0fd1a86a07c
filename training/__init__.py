"""From mixed batches to a trained, evaluated model."""
