"""A list of images to a beton."""
