r"""Line ends in UTF-8 bytes, at the speed of `bytes.count`.

A line ends where `str.splitlines` says so: \n \r \r\n \v \f \x1c \x1d \x1e, U+0085, U+2028 and U+2029. `flattened`
writes every one of them as a "\n" on its last byte and keeps all lengths. From there on lines are counted with
`count(b"\n")`, and the n-th end is found by halving: no step goes from line to line, so that a text of empty lines
costs no more than one of long ones.
"""

from __future__ import annotations

__all__ = ["WIDE_ENDS", "flattened", "nth_end"]

_RARE = b"\v\f\x1c\x1d\x1e"
_ALL_ONE_BYTE = bytes.maketrans(b"\r" + _RARE, b"\n" * (1 + len(_RARE)))
WIDE_ENDS = "\x85\u2028\u2029"


def flattened(data: bytes, *, wide: bool = True) -> bytes:
    r"""`data`, whole UTF-8 characters, with every line end as "\n" on its last byte. A last "\r" counts as one.

    Args:
        wide: whether one of `WIDE_ENDS` may be in it. Looking for a pair of bytes is slow: pass False if none can be.
    """
    flat = data
    if b"\r" in data:
        flat = flat.replace(b"\r\n", b" \n").translate(_ALL_ONE_BYTE)
    elif any(byte in data for byte in _RARE):
        flat = flat.translate(_ALL_ONE_BYTE)
    if wide:
        for end in map(str.encode, WIDE_ENDS):
            flat = flat.replace(end, b"\n".rjust(len(end)))
    return flat


def nth_end(flat: bytes, start: int, stop: int, number: int) -> int:
    r"""Where the `number`-th "\n" (from 1) of flat[start:stop] is. It must have that many."""
    while stop - start > 1:
        middle = (start + stop) // 2
        before = flat.count(b"\n", start, middle)
        if before >= number:
            stop = middle
        else:
            number -= before
            start = middle
    return start
