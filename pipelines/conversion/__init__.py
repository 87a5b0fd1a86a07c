"""A list of images to a beton, and whether a beton is still what was written."""
