"""The tree over the records, against the definition in RFC 9162, written down a second time."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from belljar.audit.merkle import EMPTY_ROOT, SparseTree, Tree, is_consistent, is_included, leaf_hash
from tests.examples import examples

LEAVES = [leaf_hash(str(number).encode()) for number in range(300)]


def mth(leaves: Sequence[bytes]) -> bytes:
    """The RFC's own recursion."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:split]) + mth(leaves[split:])).digest()


def test_the_root_of_every_size_is_the_rfcs() -> None:
    tree = Tree()
    assert tree.root() == EMPTY_ROOT
    for size in range(1, len(LEAVES) + 1):
        tree.extend(LEAVES[size - 1 : size])
        assert tree.root() == mth(LEAVES[:size])
    assert all(tree.root(size) == mth(LEAVES[:size]) for size in range(1, len(LEAVES)))


def test_a_known_tree_of_a_million_records() -> None:
    """What a second implementation has computed."""
    tree = Tree()
    for begin in range(0, 10**6, 4000):
        tree.extend([leaf_hash(b"%d" % number) for number in range(begin, begin + 4000)])
        tree.forget(tree.size)
    assert tree.root().hex() == base64.b64decode("kfr1X1A6GgebOPJGTCuCJ8/hdPTjMyb76uZ1kM/DxhI=").hex()


@settings(max_examples=examples(200))
@given(st.data())
def test_a_tree_goes_on_from_its_parts_and_its_proofs_hold(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, len(LEAVES)))
    base = data.draw(st.integers(0, size))
    forgotten = data.draw(st.integers(base, size))
    whole = Tree()
    whole.extend(LEAVES[:base])
    tree = Tree(base, whole.parts())
    tree.extend(LEAVES[base:size])
    tree.forget(forgotten)
    old = data.draw(st.integers(max(forgotten, 1), size))
    assert tree.knows(old)
    assert tree.root(old) == mth(LEAVES[:old])
    proof = tree.consistency(old, size)
    assert is_consistent(old, size, mth(LEAVES[:old]), tree.root(), proof)
    assert not is_consistent(old, size, EMPTY_ROOT, tree.root(), proof)
    assert not is_consistent(old, size, mth(LEAVES[:old]), EMPTY_ROOT, proof)
    assert not is_consistent(old, size, mth(LEAVES[:old]), tree.root(), [*proof, EMPTY_ROOT])
    if forgotten < size:
        leaf = data.draw(st.integers(forgotten, size - 1))
        included = tree.inclusion(leaf, size)
        assert is_included(leaf, size, LEAVES[leaf], included, tree.root())
        assert not is_included(leaf, size, EMPTY_ROOT, included, tree.root())
        assert not is_included(leaf, size + 1, LEAVES[leaf], included, tree.root()) or size & (size - 1)
        assert not is_included(leaf, size, LEAVES[leaf], included[:-1], tree.root()) or not included
        assert not is_included(leaf, size, LEAVES[leaf], [*included, EMPTY_ROOT], tree.root())


@given(st.integers(1, 299), st.integers(0, 4), st.data())
def test_of_blocks_and_the_leaves_of_one_a_tree_has_the_root_and_the_proofs(
    size: int, level: int, data: st.DataObject
) -> None:
    leaf = data.draw(st.integers(0, size - 1))
    whole = Tree()
    whole.extend(LEAVES[:size])
    blocks = [mth(LEAVES[at << level : (at + 1) << level]) for at in range(size >> level)]
    known = {at: LEAVES[at] for at in range(size) if at >> level in (leaf >> level, size >> level)}
    sparse = SparseTree(size, level, blocks, known)
    assert (sparse.root(), sparse.leaf(leaf)) == (whole.root(), LEAVES[leaf])
    assert sparse.inclusion(leaf, size) == whole.inclusion(leaf, size)


def test_what_it_has_forgotten_it_does_not_make_up() -> None:
    tree = Tree()
    tree.extend(LEAVES)
    tree.forget(101)
    assert not tree.knows(100)
    with pytest.raises(KeyError):
        tree.root(99)
    with pytest.raises(KeyError):
        tree.inclusion(50, 300)
    with pytest.raises(ValueError, match="does not have 1 perfect parts"):
        Tree(3, [EMPTY_ROOT])
