"""FFCV's file format: written whole or not at all, read, copied once a node."""
