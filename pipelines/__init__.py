"""From images to a mixed batch on the device; knows of no model and no optimizer."""
