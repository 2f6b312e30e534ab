"""A Merkle tree as RFC 9162 defines it (section 2.1), over leaves that come one after the other.

    leaf  = SHA-256(0x00 || record)          node = SHA-256(0x01 || left || right)

The tree of n leaves has as its left part the largest perfect tree that is smaller than n. So it is known from the roots
of its perfect parts, one for each bit of n that is set, the largest first: all that `Tree` needs to go on from there.
Of the leaves that came since, it keeps all nodes, until it is told to forget them: for the root and the proofs of every
size in between. Anything else would need a leaf that is gone, and is a `KeyError`.

    size 6: the parts are [0,4) and [4,6)          with leaf 6:  [0,4) [4,6) [6,7)

A proof is a list of the hashes of nodes. Whoever has a root that he trusts checks with it that a leaf is in the tree
(`is_included`), or that a larger tree begins with the smaller one (`is_consistent`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256

__all__ = ["EMPTY_ROOT", "SparseTree", "Tree", "is_consistent", "is_included", "leaf_hash"]

EMPTY_ROOT = sha256(b"").digest()


def leaf_hash(record: bytes) -> bytes:
    return sha256(b"\x00" + record).digest()


def _node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """A tree that grows.

    Args:
        size: how many leaves it has already.
        parts: the roots of its perfect parts, the largest first.

    Raises:
        ValueError: there are not as many parts as such a tree has.
    """

    def __init__(self, size: int = 0, parts: Sequence[bytes] = ()) -> None:
        if size < 0 or len(parts) != size.bit_count():
            raise ValueError(f"a tree of {size} leaves does not have {len(parts)} perfect parts")
        self.size = size
        self._base = size
        # Of each level: the index of the first node that is kept, and the nodes.
        self._levels: list[tuple[int, list[bytes]]] = []
        left = list(parts)
        for level in range(size.bit_length()):
            nodes = [left.pop()] if size >> level & 1 else []
            self._levels.append(((size >> level) - len(nodes), nodes))

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add the hashes of leaves."""
        first, nodes = self._level(0)
        nodes.extend(leaves)
        self.size = first + len(nodes)
        for level in range(1, self.size.bit_length()):
            below, children = self._levels[level - 1]
            first, nodes = self._level(level)
            begin, end = 2 * (first + len(nodes)) - below, 2 * (self.size >> level) - below
            nodes.extend([sha256(b"\x01" + children[at] + children[at + 1]).digest() for at in range(begin, end, 2)])

    def _level(self, level: int) -> tuple[int, list[bytes]]:
        if level == len(self._levels):
            self._levels.append((0, []))
        return self._levels[level]

    def forget(self, size: int) -> None:
        """Keep only what is needed for sizes and leaves from `size` on."""
        self._base = max(self._base, size)
        for level, (first, nodes) in enumerate(self._levels):
            begin = (size >> level) - (size >> level & 1)
            if begin > first:
                self._levels[level] = (begin, nodes[begin - first :])

    def knows(self, size: int) -> bool:
        """Whether it can say what the root of this size is."""
        return self._base <= size <= self.size

    def parts(self, size: int | None = None) -> list[bytes]:
        """The roots of the perfect parts of the tree when it had that size, the largest first."""
        size = self.size if size is None else size
        return [
            self._node(level, (size >> level) - 1) for level in reversed(range(size.bit_length())) if size >> level & 1
        ]

    def nodes(self, level: int) -> tuple[int, list[bytes]]:
        """Of the nodes of a level, the index of the first that is kept, and all from there on."""
        return self._levels[level] if level < len(self._levels) else (0, [])

    def root(self, size: int | None = None) -> bytes:
        """The root of the tree when it had that size."""
        size = self.size if size is None else size
        return self._range(0, size) if size else EMPTY_ROOT

    def leaf(self, index: int) -> bytes:
        """The hash of a leaf, counted from 0."""
        return self._node(0, index)

    def inclusion(self, leaf: int, size: int) -> list[bytes]:
        """The proof that leaf number `leaf`, counted from 0, is in the tree of that size."""
        return self._path(leaf, 0, size)

    def consistency(self, old: int, new: int) -> list[bytes]:
        """The proof that the tree of size `new` begins with that of size `old`, which is not 0."""
        return [] if old == new else self._subproof(old, 0, new, whole=True)

    def _path(self, leaf: int, begin: int, end: int) -> list[bytes]:
        if end - begin == 1:
            return []
        middle = begin + _split(end - begin)
        if leaf < middle:
            return [*self._path(leaf, begin, middle), self._range(middle, end)]
        return [*self._path(leaf, middle, end), self._range(begin, middle)]

    def _subproof(self, old: int, begin: int, end: int, *, whole: bool) -> list[bytes]:
        if old == end:
            return [] if whole else [self._range(begin, end)]
        middle = begin + _split(end - begin)
        if old <= middle:
            return [*self._subproof(old, begin, middle, whole=whole), self._range(middle, end)]
        return [*self._subproof(old, middle, end, whole=False), self._range(begin, middle)]

    def _range(self, begin: int, end: int) -> bytes:
        """The root of the tree of some leaves, which is a part of this one."""
        count = end - begin
        if count.bit_count() == 1:
            level = count.bit_length() - 1
            return self._node(level, begin >> level)
        middle = begin + _split(count)
        return _node_hash(self._range(begin, middle), self._range(middle, end))

    def _node(self, level: int, index: int) -> bytes:
        first, nodes = self.nodes(level)
        if not first <= index < first + len(nodes):
            raise KeyError(f"node {index} of level {level} is not kept")
        return nodes[index - first]


class SparseTree(Tree):
    """A tree of which the nodes of one level are known, and the leaves below some of them: enough for proofs of those.

    Args:
        size: how many leaves it has.
        level: that level.
        blocks: its nodes, one for each `2 ** level` leaves that there are.
        leaves: leaves by their indexes: all of a block, or none; and all behind the last block.
    """

    def __init__(self, size: int, level: int, blocks: Sequence[bytes], leaves: Mapping[int, bytes]) -> None:
        super().__init__()
        self.size = size
        self._level_known = level
        self._blocks = blocks
        self._leaves = leaves

    def _node(self, level: int, index: int) -> bytes:
        if level == self._level_known:
            return self._blocks[index]
        if level == 0:
            return self._leaves[index]
        return _node_hash(self._node(level - 1, 2 * index), self._node(level - 1, 2 * index + 1))


def _split(count: int) -> int:
    """The largest power of two that is smaller than `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def is_included(leaf: int, size: int, leaf_: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether the proof shows that the tree of that size and root has `leaf_` as its leaf number `leaf` (2.1.3.2)."""
    if not 0 <= leaf < size:
        return False
    at, last, found = leaf, size - 1, leaf_
    for node in proof:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = _node_hash(node, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = _node_hash(found, node)
        at, last = at >> 1, last >> 1
    return last == 0 and found == root


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether the proof shows that the tree of size `new` begins with that of size `old`, which is not 0 (2.1.4.2)."""
    if not 0 < old <= new:
        return False
    if old == new:
        return not proof and old_root == new_root
    path = [old_root, *proof] if old.bit_count() == 1 else list(proof)
    if not path:
        return False
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    first = second = path[0]
    for node in path[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            first, second = _node_hash(node, first), _node_hash(node, second)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            second = _node_hash(second, node)
        at, last = at >> 1, last >> 1
    return last == 0 and (first, second) == (old_root, new_root)
