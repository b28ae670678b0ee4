"""Fingerprints of sets of rows that do not depend on the order of the rows."""

import hashlib

_MODULUS = 1 << 256


class Fingerprint:
    """The sum of the SHA-256 digests of the rows, modulo 2**256.

    Order-free and incremental (AdHASH; Bellare and Micciancio, "A New Paradigm for Collision-Free
    Hashing", 1997). It tells contents apart; it is no protection against an adversary.
    """

    def __init__(self) -> None:
        self._sum = 0

    def add(self, *fields: str | bytes | int) -> None:
        """Count one row in; each field enters with its length, so that fields cannot run together."""
        digest = hashlib.sha256()
        for field in fields:
            raw = field if isinstance(field, bytes) else str(field).encode()
            digest.update(len(raw).to_bytes(8, "big"))
            digest.update(raw)
        self._sum = (self._sum + int.from_bytes(digest.digest(), "big")) % _MODULUS

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return f"{self._sum:064x}"
