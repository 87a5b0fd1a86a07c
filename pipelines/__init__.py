"""From images to a mixed batch on the device; knows of no model and no optimizer."""

from pipelines.compiled_cache import use_own_cache

use_own_cache()  # before a module imports numba, which then reads where to keep its machine code
