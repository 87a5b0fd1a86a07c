"""FFCV's file format: written whole or not at all, read, verified, copied once a node."""
