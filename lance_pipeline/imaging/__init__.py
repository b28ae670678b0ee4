"""Encoded bytes to pixels: formats, headers, decoding, channel sums, and small pictures for people."""
