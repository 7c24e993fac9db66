"""Distances in pixel units, read without torch: the command line knows them before it needs more."""

from __future__ import annotations

from typing import TYPE_CHECKING

__all__ = ["Pixels"]

# jsonargparse runs the body of `if TYPE_CHECKING:` to resolve annotations; here it must find the class.
if not TYPE_CHECKING:

    class Pixels(float):
        """A distance in pixel units, where pixels lie in [0, 1]; recipes and command lines may write ``8/255``.

        Raises:
            ValueError: the text is neither a number nor a fraction of two numbers.

        >>> Pixels("8/255") == 8 / 255
        True
        """

        def __new__(cls, value: float | str) -> Pixels:
            if isinstance(value, str):
                numerator, slash, denominator = value.partition("/")
                try:
                    return super().__new__(cls, float(numerator) / (float(denominator) if slash else 1.0))
                except (ValueError, ZeroDivisionError):
                    raise ValueError(f"{value!r} is not a pixel distance; write 0.03 or 8/255") from None
            return super().__new__(cls, value)

else:
    Pixels = float
