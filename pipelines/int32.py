"""Arithmetic that stays in 32 bits, in compiled code.

numba widens whatever it computes to 64 bits, and the compiler does not always see that it may cut it back, so half of a
vector register's lanes are lost, or the loop is not vectorised at all. These wrap around, as int32 does in C.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from numba import types
from numba.extending import intrinsic


def _operation(method: str) -> Callable[[np.int32, np.int32], np.int32]:
    """Make a function (int32, int32) -> int32 of one instruction."""

    def build(typing: Any, a: Any, b: Any) -> Any:
        if a != types.int32 or b != types.int32:
            return None

        def generate(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
            return getattr(builder, method)(*operands)

        return types.int32(types.int32, types.int32), generate

    compiled: Any = intrinsic(build)
    return cast("Callable[[np.int32, np.int32], np.int32]", compiled)


add = _operation("add")
subtract = _operation("sub")
multiply = _operation("mul")
shift_left = _operation("shl")
shift_right = _operation("ashr")
"""Rounds down, for negative numbers too."""
