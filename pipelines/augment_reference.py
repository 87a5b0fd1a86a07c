"""What `augment` means: torchvision on Pillow images, view by view.

Every fast backend is within two levels of this.

    augment(views, colour) -> views

GLMC's official ImageNet recipe: brightness, contrast and saturation in the order drawn for the view, each
rounded and clamped as Pillow does, then grayscale, then Gaussian blur. What is drawn is a `ColourDraws`.
"""

from __future__ import annotations

import numpy as np
import torchvision.transforms.functional as TF
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from pipelines.draws.colours import ColourDraws


def augment(views: NDArray[np.uint8], colour: ColourDraws) -> NDArray[np.uint8]:
    """Return the views (n, H, W, 3) uint8 with the colours changed as drawn; view i has row i of `colour`."""
    return np.stack([_augment_view(view, colour, i) for i, view in enumerate(views)])


def _augment_view(view: NDArray[np.uint8], colour: ColourDraws, i: int) -> NDArray[np.uint8]:
    image = Image.fromarray(np.ascontiguousarray(view))
    jitter = (
        (TF.adjust_brightness, colour.brightness),
        (TF.adjust_contrast, colour.contrast),
        (TF.adjust_saturation, colour.saturation),
    )
    for operation in colour.order[i].tolist():
        adjust, factor = jitter[operation]
        image = adjust(image, float(factor[i]))
    if colour.gray[i]:
        image = TF.rgb_to_grayscale(image, num_output_channels=3)
    if colour.blur_sigma[i] > 0:
        image = image.filter(ImageFilter.GaussianBlur(float(colour.blur_sigma[i])))
    return np.asarray(image)
