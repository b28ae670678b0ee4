"""What transparent pixels become: the choice, and its names."""

from typing import Literal

Transparency = Literal["white", "black", "grey", "drop"]
"""What transparent pixels become: blended with a plain background or, with ``drop``, whatever colour hides in them."""
TRANSPARENCY: Transparency = "white"
"""The default: the paper on which most drawings, logos and cut-out products are meant to be seen."""
EARLIER: Transparency = "drop"
"""What was done before it could be chosen: data sets and models that say nothing of it were made so."""
