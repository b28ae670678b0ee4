"""Encoded bytes to pixels: formats, headers, decoding, channel sums, and thumbnails."""
