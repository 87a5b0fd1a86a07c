"""Data sets before conversion, as lists of (image, label)."""
