"""Exact sums over pixels, from which mean and standard deviation follow however rows were grouped."""

from pydantic import BaseModel

IntTriple = tuple[int, int, int]


class ChannelSums(BaseModel):
    """Sums over all pixels of a set of 8-bit RGB images; integers, hence exact in any order.

    >>> half_white = ChannelSums(pixels=2, total=(255, 255, 255), squares=(255**2, 255**2, 255**2))
    >>> half_white.mean(), half_white.std()
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """

    pixels: int = 0
    total: IntTriple = (0, 0, 0)
    squares: IntTriple = (0, 0, 0)

    def plus(self, other: "ChannelSums", sign: int = 1) -> "ChannelSums":
        """These sums and the others, or these without the others where ``sign`` is -1."""
        return ChannelSums(
            pixels=self.pixels + sign * other.pixels,
            total=_plus(self.total, other.total, sign),
            squares=_plus(self.squares, other.squares, sign),
        )

    def mean(self) -> tuple[float, float, float]:
        """Per channel, on the scale 0 to 1."""
        r, g, b = (t / (self.pixels * 255) for t in self.total)
        return r, g, b

    def std(self) -> tuple[float, float, float]:
        """Per channel, on the scale 0 to 1: the standard deviation over all pixels."""
        r, g, b = (
            max(s * self.pixels - t * t, 0) ** 0.5 / (self.pixels * 255)
            for s, t in zip(self.squares, self.total, strict=True)
        )
        return r, g, b


def _plus(one: IntTriple, other: IntTriple, sign: int) -> IntTriple:
    return one[0] + sign * other[0], one[1] + sign * other[1], one[2] + sign * other[2]
