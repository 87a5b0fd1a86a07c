"""Small sets held in memory whole, as uint8: a view is a gather, and there is no JPEG.

For CIFAR-LT and the embedded digits: their images are of one size, and training cuts padded crops from them.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


class ResidentImages:
    """Images of one size, in one array."""

    def __init__(self, images: NDArray[np.uint8]) -> None:
        """Copy the images (n, H, W, 3) uint8, so that a memmap need not stay open."""
        assert images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
        self.images = np.array(images, order="C")
        """(n, H, W, 3) uint8, C-contiguous."""

    def padded_crop(
        self,
        indices: NDArray[np.integer],
        offsets: NDArray[np.integer],
        flips: NDArray[np.bool_],
        pad: int,
        *,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Cut crops of the images' own size from images with `pad` black pixels on each side.

        The same as torchvision's RandomCrop((H, W), padding=pad) and then a horizontal flip.

        Args:
            indices: (m,) which images.
            offsets: (m, 2) (dy, dx), the crop's corner in the padded image, in [0, 2 pad].
            flips: (m,) whether the crop is mirrored left-right.
            pad: pixels.
            out: (m, H, W, 3) uint8, C-contiguous, to write into; by default a new array.

        Raises:
            IndexError: an index is not that of an image.
            ValueError: an offset is outside [0, 2 pad].
        """
        self._check_indices(indices)
        if len(offsets) and (offsets.min() < 0 or offsets.max() > 2 * pad):
            raise ValueError(f"crop offsets must lie in [0, {2 * pad}], twice the padding")
        assert len(indices) == len(offsets) == len(flips)
        out = self._target(len(indices), out)
        _padded_crop(self.images, indices, offsets, flips, pad, out)
        return out

    def gather(
        self, indices: NDArray[np.integer], *, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return the images (m, H, W, 3) uint8 as they are, in `out` if given; IndexError as above."""
        self._check_indices(indices)
        return np.take(self.images, indices, axis=0, out=self._target(len(indices), out), mode="clip")

    def _check_indices(self, indices: NDArray[np.integer]) -> None:
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self.images)):
            raise IndexError(f"there are images 0 to {len(self.images) - 1} only")

    def _target(self, m: int, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        shape = (m, *self.images.shape[1:])
        if out is None:
            return np.empty(shape, np.uint8)
        assert out.shape == shape and out.dtype == np.uint8 and out.flags.c_contiguous
        return out


@njit(nogil=True, cache=True)
def _padded_crop(images, indices, offsets, flips, pad, out):  # type: ignore[no-untyped-def]
    """Fill `out`; the border's place follows from the offset, so no pixel asks whether it is inside."""
    height, width = images.shape[1:3]
    for i in range(len(indices)):
        image, view = images[indices[i]], out[i]
        shift_y, shift_x = offsets[i, 0] - pad, offsets[i, 1] - pad
        top, bottom = max(0, -shift_y), min(height, height - shift_y)
        left, right = max(0, -shift_x), min(width, width - shift_x)
        if top > 0 or bottom < height or left > 0 or right < width:
            view[:] = 0
        for y in range(top, bottom):
            if flips[i]:
                for x in range(left, right):
                    for c in range(3):
                        view[y, width - 1 - x, c] = image[y + shift_y, x + shift_x, c]
            else:
                for x in range(left, right):
                    for c in range(3):
                        view[y, x, c] = image[y + shift_y, x + shift_x, c]
