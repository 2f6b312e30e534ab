"""What the caller of a run keeps, to prove later that the log has all of it, unchanged.

A receipt names the run's last record and the range in which all its records are, and has a signed checkpoint of the
log with the proof that this record is in the log. A record vouches for all before it, and so does the checkpoint: a log
that agrees with it still has every record of the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import msgspec

from belljar.errors import InvalidInput

__all__ = ["Receipt"]

_BYTES_MAX: Final = 2**26  # a whole result, with its answer


class Receipt(msgspec.Struct, frozen=True):
    """Where the log stood when a run finished. Keep it to tell a log that was cut or changed from a whole one.

    Attributes:
        run: the run's id.
        seq: the number of its last record; all its records are from `first` to `seq`, among those of others.
        head: the hex SHA-256 of that record.
        leaf: its hex leaf hash in the log's tree, SHA-256(0x00 || record).
        checkpoint: the signed note of the log's tree; None if none was made in time, as `belljar audit receipt` can.
        proof: that the leaf is in the tree, RFC 9162's inclusion proof, in hex.
    """

    run: str
    seq: int
    head: str
    first: int | None = None
    leaf: str | None = None
    checkpoint: str | None = None
    proof: tuple[str, ...] = ()

    def proved(self, *, leaf: bytes, note: str, proof: Sequence[bytes]) -> Receipt:
        return msgspec.structs.replace(
            self, leaf=leaf.hex(), checkpoint=note, proof=tuple(node.hex() for node in proof)
        )

    @classmethod
    def read(cls, text: bytes) -> Self:
        """A receipt alone, or in the result of a run as `--json` prints it.

        Raises:
            InvalidInput: `audit.receipt`: it is neither.
        """
        try:
            if len(text) > _BYTES_MAX:
                raise ValueError
            found = msgspec.json.decode(text)
            return msgspec.convert(found.get("receipt", found), cls)
        except (ValueError, AttributeError):  # msgspec's errors are ValueErrors
            raise InvalidInput(
                "the file has no receipt; give the result of a run as --json prints it, or what "
                "`belljar audit receipt` prints",
                code="audit.receipt",
            ) from None
