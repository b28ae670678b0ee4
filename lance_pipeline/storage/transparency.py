"""The options for handling transparent pixels."""

from typing import Literal

Transparency = Literal["white", "black", "grey", "drop"]
"""Blend transparent pixels with a plain background or, with ``drop``, ignore transparency and use the hidden colour."""
TRANSPARENCY: Transparency = "white"
"""The default: most drawings, logos and cut-out products are meant to be seen on white."""
EARLIER: Transparency = "drop"
"""The behaviour before this option existed, for datasets and models that do not record it."""
