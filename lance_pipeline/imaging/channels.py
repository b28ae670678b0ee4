"""Exact sums over pixels, from which mean and standard deviation are computed independently of batching."""

from pydantic import BaseModel

IntTriple = tuple[int, int, int]


class ChannelSums(BaseModel):
    """Sums over all pixels of a set of 8-bit RGB images; as integers they are exact in any order.

    >>> half_white = ChannelSums(pixels=2, total=(255, 255, 255), squares=(255**2, 255**2, 255**2))
    >>> half_white.mean(), half_white.std()
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """

    pixels: int = 0
    total: IntTriple = (0, 0, 0)
    squares: IntTriple = (0, 0, 0)

    def plus(self, other: "ChannelSums", sign: int = 1) -> "ChannelSums":
        """The sum of both; with ``sign`` -1, the difference."""
        return ChannelSums(
            pixels=self.pixels + sign * other.pixels,
            total=_add(self.total, other.total, sign),
            squares=_add(self.squares, other.squares, sign),
        )

    def mean(self) -> tuple[float, float, float]:
        """The mean per channel, on a scale from 0 to 1."""
        r, g, b = (t / (self.pixels * 255) for t in self.total)
        return r, g, b

    def std(self) -> tuple[float, float, float]:
        """The standard deviation per channel over all pixels, on a scale from 0 to 1."""
        r, g, b = (
            max(s * self.pixels - t * t, 0) ** 0.5 / (self.pixels * 255)
            for s, t in zip(self.squares, self.total, strict=True)
        )
        return r, g, b


def _add(one: IntTriple, other: IntTriple, sign: int) -> IntTriple:
    return one[0] + sign * other[0], one[1] + sign * other[1], one[2] + sign * other[2]
