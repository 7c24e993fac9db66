"""Distances in pixel units (8/255), parsed without torch."""

from __future__ import annotations

import math
from numbers import Real
from typing import TYPE_CHECKING, Any

from protoat.errors import UserError

# jsonargparse runs the body of `if TYPE_CHECKING:` to resolve annotations; here it must find the class.
if not TYPE_CHECKING:

    class Pixels(float):
        """A distance in pixel units, where pixels lie in [0, 1]; recipes and command lines may write ``8/255``.

        Raises:
            ValueError: neither a finite number nor the text of one or of a fraction of two.

        >>> Pixels("8/255") == 8 / 255
        True
        """

        def __new__(cls, value: float | str) -> Pixels:
            number: Any = value
            if isinstance(value, str):
                numerator, slash, denominator = value.partition("/")
                try:
                    number = float(numerator) / (float(denominator) if slash else 1.0)
                except (ValueError, ZeroDivisionError):
                    number = None
            if isinstance(number, bool) or not isinstance(number, Real) or not math.isfinite(number):
                raise UserError(f"{value!r} is not a pixel distance; write 0.03 or 8/255")
            return super().__new__(cls, number)

else:
    Pixels = float
