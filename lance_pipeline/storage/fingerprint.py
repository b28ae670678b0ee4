"""Order-independent fingerprints of sets of rows."""

import hashlib

_MODULUS = 1 << 256


class Fingerprint:
    """The sum of the SHA-256 digests of the rows, modulo 2**256.

    Order-independent and incremental (AdHASH; Bellare and Micciancio, "A New Paradigm for Collision-Free
    Hashing", 1997). It distinguishes contents; it does not protect against an adversary.

    >>> one, other = Fingerprint(), Fingerprint()
    >>> one.add("cat/1.png", "cat"), one.add("dog/2.png", "dog")
    (None, None)
    >>> other.add("dog/2.png", "dog"), other.add("cat/1.png", "cat")
    (None, None)
    >>> one.hexdigest() == other.hexdigest()
    True

    Args:
        hexdigest: the fingerprint to start from; empty for no rows.
    """

    def __init__(self, hexdigest: str = "") -> None:
        self._sum = int(hexdigest or "0", 16)

    def add(self, *fields: str | bytes | int) -> None:
        """Add one row; each field is hashed with its length, so that adjacent fields cannot be confused."""
        raw = [field if isinstance(field, bytes) else str(field).encode() for field in fields]
        row = b"".join([part for one in raw for part in (len(one).to_bytes(8, "big"), one)])
        self._sum = (self._sum + int.from_bytes(hashlib.sha256(row).digest(), "big")) % _MODULUS

    def plus(self, other: "Fingerprint", sign: int = 1) -> "Fingerprint":
        """The fingerprint of the rows of both; with ``sign`` -1, of these rows without the other's."""
        total = int(self.hexdigest(), 16) + sign * int(other.hexdigest(), 16)
        return Fingerprint(f"{total % _MODULUS:x}")

    def hexdigest(self) -> str:
        """64 hexadecimal digits."""
        return f"{self._sum:064x}"
