"""How the views of a span of source images are cut: every draw of one stream, as plain arrays.

The draws themselves are in crop_draws.py and colour_draws.py; this file says which of them a recipe makes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.colour_draws import ColourDraws, ColourSettings, draw_colour
from pipelines.crop_draws import draw_flips, draw_padded_boxes, draw_resized_boxes
from pipelines.draws import Draw
from pipelines.user_error import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
