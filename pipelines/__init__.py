"""From images to a mixed batch on the device; knows of no model and no optimizer.

In the order of the data: `sources` (lists of images) -> `conversion` -> `beton` (FFCV's files) -> `draws` (all
chance) -> decode_*.py and `jpeg` (views) -> augment_*.py -> mix_*.py -> train_loader.py, eval_loader.py; `resident`
is the same for small sets in memory. *_reference.py say what an operation means.
"""

from pipelines.compiled_cache import use_own_cache

use_own_cache()  # before a module imports numba, which then reads where to keep its machine code
