"""PagedList and PagedDict say what `list` and `dict` say, and no C function takes them for empty ones."""

from __future__ import annotations

import collections
import copy
import heapq
import json
import operator
import random
import re
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.context.collection import PagedDict, PagedList
from guest.context.paged import PagedText, TextTooLarge, plain
from guest.context.pages import PageCache
from guest.context.placeholder import mark
from tests.examples import examples
from tests.unit.paged_fakes import Items, Stored


def look_alike(value: Any, *, keys_bytes_max: int = 1 << 20, **more: Any) -> Any:
    stored = Stored(value)
    text, directory = stored.paged("text", **more), stored.paged("directory", **more)
    if isinstance(value, dict):
        return PagedDict(text, directory, len(value), keys_bytes_max=keys_bytes_max)
    return PagedList(text, directory, len(value))


strings = st.text(alphabet="abé😀\r\n", max_size=6)
values = st.one_of(
    strings,
    st.sampled_from([None, True, 0, 1, 2.5, [], {}]),
    st.recursive(
        strings, lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(strings, inner)), max_leaves=3
    ),
)
lists = st.one_of(st.lists(strings, max_size=12), st.lists(values, max_size=8))
dicts = st.one_of(st.dictionaries(strings, strings, max_size=10), st.dictionaries(strings, values, max_size=8))
places = st.one_of(st.none(), st.integers(-15, 15))
shapes = st.fixed_dictionaries(
    {"page_chars": st.integers(1, 50), "cache": st.builds(PageCache, st.sampled_from([0, 300, 9999]))}
)


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """What a call gives: its value with the type, or the type of its error."""
    try:
        value = function(*args)
    except (IndexError, TypeError, ValueError, LookupError) as error:
        return type(error)
    return value.__class__, value  # an item's class says what it looks like


# ------------------------------------------------------------------------------------------------------------- lists


@given(lists, shapes, places, places, st.one_of(st.none(), st.integers(-4, 4)))
def test_items_and_slices(items: list[Any], shape: Any, start: int | None, stop: int | None, step: int | None) -> None:
    twin = look_alike(items, **shape)
    key = slice(start, stop, step)
    assert outcome(lambda: twin[key]) == outcome(lambda: items[key])
    for at in (start or 0, -1, 10**9):
        assert outcome(operator.getitem, twin, at) == outcome(operator.getitem, items, at)


@pytest.mark.slow
@given(lists, shapes, lists)
def test_a_list_as_a_whole(items: list[Any], shape: Any, other: list[Any]) -> None:
    twin = look_alike(items, **shape)
    assert (len(twin), bool(twin), list(twin), list(reversed(twin))) == (len(items), bool(items), items, items[::-1])
    assert ([*twin], tuple(twin), list(enumerate(twin)), twin.copy()) == (
        [*items],
        tuple(items),
        list(enumerate(items)),
        items,
    )
    assert (twin == items, items == twin, twin != items, twin == look_alike(items)) == (True, True, False, True)
    assert (twin == other, other == twin, twin != other) == (items == other, items == other, items != other)
    assert (twin + other, other + twin, twin * 2, 2 * twin, twin + twin) == (
        *(items + other, other + items, items * 2, items * 2, items + items),
    )
    assert (str(twin), f"{twin}", json.dumps(list(twin))) == (str(items), f"{items}", json.dumps(items))


@given(st.lists(strings, max_size=8), shapes, st.lists(strings, max_size=3))
def test_lists_are_ordered_and_sorted(items: list[str], shape: Any, other: list[str]) -> None:
    twin = look_alike(items, **shape)
    for compare in (operator.lt, operator.le, operator.gt, operator.ge):
        assert compare(twin, other) == compare(items, other)
        assert compare(other, twin) == compare(other, items)
    assert sorted(twin) == sorted(items)
    assert "".join(twin) == "".join(items)
    assert heapq.nsmallest(2, twin) == heapq.nsmallest(2, items)
    assert collections.Counter(twin) == collections.Counter(items)


@given(lists, shapes, values, places, places)
def test_where_an_item_is(items: list[Any], shape: Any, value: Any, start: int | None, stop: int | None) -> None:
    twin = look_alike(items, **shape)
    for wanted in (value, *items[:3]):
        assert (wanted in twin, twin.count(wanted)) == (wanted in items, items.count(wanted))
        assert outcome(twin.index, wanted) == outcome(items.index, wanted)
        bounds = (start or 0, 9 if stop is None else stop)
        assert outcome(twin.index, wanted, *bounds) == outcome(items.index, wanted, *bounds)


def test_nothing_of_list_or_dict_is_missing_but_what_changes_in_place() -> None:
    assert set(dir(list)) - set(dir(PagedList)) == {"__class_getitem__", "__iadd__", "__imul__"}
    assert set(dir(dict)) - set(dir(PagedDict)) == {"__class_getitem__", "__ior__"}


def test_adding_to_the_name_gives_a_real_list() -> None:
    items = look_alike(["a"])
    items += ["b"]
    assert outcome(lambda: items) == (list, ["a", "b"])
    real = ["x"]
    real += look_alike(["y"])
    real[0:1] = look_alike(["z"])
    assert real == ["z", "y"]
    entries = look_alike({"a": "1"})
    entries |= {"b": "2"}
    assert outcome(lambda: entries) == (dict, {"a": "1", "b": "2"})


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.append("x"),
        lambda s: s.sort(key=len),
        lambda s: s.pop(),
        lambda s: operator.setitem(s, 0, "x"),
        lambda s: operator.delitem(s, 0),
        lambda s: s.clear(),
        lambda s: heapq.heappush(s, "x"),
        lambda s: random.shuffle(s),
    ],
)
def test_a_change_says_how_to_get_a_copy(change: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"list\(context\)"):
        change(look_alike(["a", "b"]))


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(a=1),
        lambda s: s.setdefault("a", 1),
        lambda s: operator.setitem(s, "a", "x"),
        lambda s: operator.delitem(s, "a"),
        lambda s: s.pop("a"),
    ],
)
def test_a_change_of_a_dict_says_how_to_get_a_copy(change: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match=r"dict\(context\)"):
        change(look_alike({"a": "b"}))


@pytest.mark.parametrize(
    "misuse",
    [
        lambda s: s["a"],
        lambda s: s[1.0],
        lambda s: s + 5,
        lambda s: operator.add(s, ("a",)),
        lambda s: s * "a",
        lambda s: s < 5,
        lambda s: s < ("a",),
        hash,
        lambda s: s.index(),
        lambda s: {s: 1},
        lambda s: s[::0],
    ],
)
def test_misuse_raises_what_list_raises(misuse: Callable[[Any], Any]) -> None:
    expected = outcome(lambda: misuse(["a", "b"]))
    assert isinstance(expected, type)
    assert outcome(lambda: misuse(look_alike(["a", "b"]))) is expected


# ------------------------------------------------------------------------------------------------------------- dicts


@given(dicts, shapes, st.one_of(strings, st.integers()), st.sampled_from([0, 1 << 20]))
def test_entries(entries: dict[str, Any], shape: Any, key: Any, keys_bytes_max: int) -> None:
    twin = look_alike(entries, keys_bytes_max=keys_bytes_max, **shape)
    for wanted in (key, *entries, *reversed(entries)):
        assert outcome(operator.getitem, twin, wanted) == outcome(operator.getitem, entries, wanted)
        assert (wanted in twin, twin.get(wanted), twin.get(wanted, 5)) == (
            *(wanted in entries, entries.get(wanted), entries.get(wanted, 5)),
        )
        for pair in ((wanted, entries.get(wanted)), (wanted, 0), wanted, (wanted,)):
            assert (pair in twin.items()) == (pair in entries.items())  # type: ignore[operator]
        assert (wanted in twin.keys(), wanted in twin.values()) == (wanted in entries, wanted in entries.values())  # noqa: SIM118


@pytest.mark.slow
@given(dicts, shapes, dicts)
def test_a_dict_as_a_whole(entries: dict[str, Any], shape: Any, other: dict[str, Any]) -> None:
    twin = look_alike(entries, **shape)
    assert (len(twin), bool(twin), list(twin)) == (len(entries), bool(entries), list(entries))
    assert (list(twin.keys()), list(twin.values()), list(twin.items())) == (
        *(list(entries.keys()), list(entries.values()), list(entries.items())),
    )
    assert (list(reversed(twin)), list(reversed(twin.values())), list(reversed(twin.items()))) == (
        *(list(reversed(entries)), list(reversed(entries.values())), list(reversed(entries.items()))),
    )
    assert (dict(twin), {**twin}, twin.copy(), dict(twin.items())) == (entries,) * 4
    assert (twin | other, other | twin, {**other, **twin}) == (entries | other, other | entries, {**other, **entries})
    assert (twin == entries, entries == twin, twin != entries, twin == look_alike(entries)) == (True, True, False, True)
    assert (twin == other, other == twin) == (entries == other, entries == other)
    assert (twin.keys() & other.keys(), twin.keys() | other.keys()) == (
        *(entries.keys() & other.keys(), entries.keys() | other.keys()),
    )
    assert (str(twin), sorted(twin), max(twin, default="")) == (str(entries), sorted(entries), max(entries, default=""))


@given(st.dictionaries(st.from_regex("[a-z]{1,3}", fullmatch=True), strings, max_size=4))
def test_a_dict_gives_keyword_arguments(entries: dict[str, str]) -> None:
    assert dict(**look_alike(entries)) == entries
    grown: dict[str, str] = {}
    grown.update(look_alike(entries))
    assert grown == entries
    assert collections.ChainMap(look_alike(entries)).maps[0] == entries


def test_many_keys_are_gone_through_from_where_the_last_one_was() -> None:
    entries = {f"key {number}": "x" for number in range(2000)}
    stored = Stored(entries)
    text, directory = stored.paged("text", page_chars=100), stored.paged("directory", page_chars=4200)
    twin = PagedDict(text, directory, 2000, keys_bytes_max=1000)
    assert [twin[key] for key in entries] == ["x"] * 2000
    assert sum(which == "directory" for which, _, _ in stored.read) < 50
    assert (twin.get("key 3"), twin.get("nothing")) == ("x", None)


def test_unhashable_keys_are_refused() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        look_alike({"a": "b"})[[]]
    assert look_alike({"a": "b"})[PagedText(1, lambda start, stop: "a")] == "b"


# ------------------------------------------------------------------------------------------------ what they pass for


def test_they_pass_for_what_they_look_like() -> None:
    items, entries = look_alike(["a", "b"]), look_alike({"a": "b"})
    assert (isinstance(items, list), isinstance(items, str), isinstance(items, Sequence)) == (True, False, True)
    assert isinstance(items, MutableSequence)  # as any list is
    assert (isinstance(entries, dict), isinstance(entries, Mapping), isinstance(entries, list)) == (True, True, False)
    match items:
        case [first, *rest]:
            assert (first, rest) == ("a", ["b"])
        case _:
            pytest.fail("no sequence")
    match entries:
        case {"a": value}:
            assert value == "b"
        case _:
            pytest.fail("no mapping")


def test_copies_are_real_and_can_be_changed() -> None:
    items = copy.copy(look_alike(["a"]))
    items.append("b")
    assert outcome(lambda: copy.deepcopy(look_alike(["a"]))) == (list, ["a"])
    assert outcome(lambda: copy.deepcopy(look_alike({"a": "b"}))) == (dict, {"a": "b"})
    assert outcome(lambda: copy.copy(look_alike({"a": "b"}))) == (dict, {"a": "b"})
    assert outcome(lambda: plain(look_alike(["a"]))) == (list, ["a"])
    assert outcome(lambda: plain(look_alike({"a": "b"}))) == (dict, {"a": "b"})


@pytest.mark.parametrize("value", [["secret"] * 1000, {f"secret {number}": "secret" for number in range(1000)}])
def test_repr_never_shows_what_is_in_it(value: Any) -> None:
    assert "secret" not in repr(look_alike(value))
    assert "1,000" in repr(look_alike(value))
    assert len(repr(look_alike(value).keys() if isinstance(value, dict) else look_alike(value))) < 150


@pytest.mark.parametrize("entries", [{}, {"a": "b", "c": [1, {"d": "e"}]}, {str(number): "" for number in range(1000)}])
def test_views_print_as_those_of_a_dict(entries: dict[str, Any]) -> None:
    twin = look_alike(entries)
    assert (str(twin.keys()), str(twin.items())) == (str(entries.keys()), str(entries.items()))
    assert f"{twin.values()}" == f"{entries.values()}"


@pytest.mark.parametrize("view", [PagedDict.keys, PagedDict.values, PagedDict.items])
@pytest.mark.parametrize("entries", [{f"secret {number}": "" for number in range(9000)}, {"secret": "secret" * 9000}])
def test_views_never_show_much(view: Callable[[Any], Any], entries: dict[str, str]) -> None:
    if view is PagedDict.keys and len(entries) == 1:
        entries = {"secret" * 9000: ""}
    twin = view(look_alike(entries))
    assert str(twin) == repr(twin)
    assert "secret" not in str(twin)
    assert f"of {len(entries):,} in context; " in str(twin)
    assert " in context" in str(twin)
    assert len(str(twin)) < 150


@pytest.mark.parametrize("value", [["a"], {"a": "b"}])
def test_a_missing_attribute_says_what_to_write_instead(value: Any) -> None:
    twin = look_alike(value)
    for one in (twin, twin._items._text):
        with pytest.raises(AttributeError, match=r"'Paged\w+ \(write .*\)' object has no attribute 'nothing'"):
            _ = one.nothing


@pytest.mark.parametrize("value", [["a"], {"a": "b"}])
def test_no_c_function_takes_them_for_empty(value: Any) -> None:
    twin = look_alike(value)
    with pytest.raises(TypeError):
        json.dumps(twin)  # the program's own `json` does better
    with pytest.raises(TypeError, match=r"Paged(List|Dict) \(write"):
        "".join([twin])
    with pytest.raises(TypeError, match="cannot be pickled"):
        twin.__reduce_ex__(2)


# -------------------------------------------------------------------------------------------------------- what is read


def test_going_through_the_items_reads_ahead_and_reads_once() -> None:
    items = [f"item {number}" for number in range(5000)]
    stored = Stored(items)
    shape: dict[str, Any] = {"page_chars": 5000, "cache": PageCache(1 << 20)}
    twin = PagedList(stored.paged("text", **shape), stored.paged("directory", **shape), len(items))
    assert list(twin) == items
    assert len(stored.read) < 40
    assert sum(stop - start for which, start, stop in stored.read if which == "text") == len(stored.text)


def test_a_look_for_a_text_reads_only_what_has_its_length() -> None:
    stored = Stored(["x" * 1000] * 50 + ["needle", "x" * 1000])
    shape: dict[str, Any] = {"page_chars": 10}
    twin = PagedList(stored.paged("text", **shape), stored.paged("directory", **shape), 52)
    assert ("needle" in twin, twin.count("needle"), "nothing" in twin) == (True, 1, False)
    assert sum(stop - start for which, start, stop in stored.read if which == "text") <= 100


# ---------------------------------------------------------------------------------------------------------- too large


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s[::-1],
        lambda s: s[::2],
        lambda s: s.copy(),
        lambda s: operator.add(s, []),
        lambda s: s * 2,
        str,
        plain,
        copy.copy,
    ],
)
def test_too_much_at_once_says_what_to_do_instead(call: Callable[[Any], Any]) -> None:
    twin = look_alike(["x" * 90] * 100, materialise_chars_max=1000)
    with pytest.raises(TextTooLarge, match=r"at most 1,000 .* for item in context"):
        call(twin)
    assert (len(twin), twin[5], twin[3:5], sum(map(len, twin))) == (100, "x" * 90, ["x" * 90] * 2, 9000)


def test_a_slice_of_more_items_than_fit_is_a_part() -> None:
    items = [f"{number}" * 90 for number in range(100)]
    twin = look_alike(items, materialise_chars_max=1000)
    part = twin[10:60]
    assert (type(part), len(part), part[0], part[-1], [*part]) == (PagedList, 50, items[10], items[59], items[10:60])
    assert (part[:2], type(part[3:20]), len(part[3:20])) == (items[10:12], PagedList, 17)
    assert repr(part[3:20]).startswith("<context.part(13, 30) ")


@given(lists, shapes, places, places, places)
def test_a_part_of_a_list_is_the_slice(items: list[Any], shape: Any, low: Any, high: Any, at: Any) -> None:
    part, expected = look_alike(items, **shape).part(low, high), items[low:high]
    nested, inner = part.part(at), expected[at:]
    assert (len(part), part == expected, [*reversed(part)], part[at:]) == (len(expected), True, expected[::-1], inner)
    assert (list(nested), nested.copy(), str(nested)) == (inner, inner, str(inner))
    for wanted in items[:3]:
        assert (wanted in nested, nested.count(wanted)) == (wanted in inner, inner.count(wanted))
        assert outcome(part.index, wanted) == outcome(expected.index, wanted)


@given(dicts, shapes, places, places, places, st.sampled_from([0, 10**6]))
def test_a_part_of_a_dict_has_the_entries_of_that_range(
    entries: dict[str, Any], shape: Any, low: Any, high: Any, at: Any, keys_bytes_max: int
) -> None:
    pairs = list(entries.items())[low:high]
    part = look_alike(entries, keys_bytes_max=keys_bytes_max, **shape).part(low, high)
    assert (len(part), dict(part), list(part.items()), list(reversed(part))) == (
        len(pairs),
        dict(pairs),
        pairs,
        [key for key, _ in pairs][::-1],
    )
    assert {key: part.get(key, part) is part for key in entries} == {key: key not in dict(pairs) for key in entries}
    assert (str(part.keys()), str(part.values())) == (str(dict(pairs).keys()), str(dict(pairs).values()))
    assert part.part(at) == dict(pairs[at:])


def test_too_large_a_dict_says_so_and_is_read_entry_by_entry() -> None:
    twin = look_alike({f"{number}": "x" * 90 for number in range(100)}, materialise_chars_max=1000)
    with pytest.raises(TextTooLarge):
        twin.copy()
    assert (twin["7"], sum(len(value) for value in twin.values()), len(twin.items())) == ("x" * 90, 9000, 100)


def test_an_item_too_large_for_a_str_is_paged_itself() -> None:
    long = "line\n" * 500
    twin = look_alike(["a", long, "b"], materialise_chars_max=1000)
    item = twin[1]
    assert isinstance(item, str)
    assert issubclass(type(item), PagedText)
    assert (item == long, len(item), item.count("line"), item[-5:], twin[2]) == (True, 2500, 500, "line\n", "b")
    assert (long in twin, twin.index(long), list(twin)[1] == long) == (True, 1, True)
    assert repr(item).startswith(f"<context[1] {mark()}: a text of 2,500 characters")
    entries = look_alike({"k": long, "j": [long]}, materialise_chars_max=1000)
    assert repr(entries["k"]).startswith(f"<context['k'] {mark()}: a text of")
    with pytest.raises(TextTooLarge):
        entries["j"]


def test_a_directory_of_another_length_is_found_out() -> None:
    stored = Stored(["a"])
    with pytest.raises(ValueError, match="a directory of 2 items has 84 characters, not 42"):
        PagedList(stored.paged("text"), stored.paged("directory"), 2)


@settings(max_examples=examples(20))
@given(st.lists(strings, min_size=1, max_size=30))
def test_a_batch_of_records_ends_anywhere(items: list[str]) -> None:
    many = items * 90  # several batches of records
    assert list(look_alike(many)) == many
    assert list(reversed(look_alike(many))) == many[::-1]


# ---------------------------------------------------------------------------------------------------------- searching

LOGS = {"a.log": "start\nuser 17: ok\n", "empty": "", "n": [1, "user 3"], "b.log": "user 4: bad\nuser 5: ok"}
USER = r"user (?P<number>\d+)(?:: (\w+))?"


def searched(value: Any, patience: int = 2) -> Any:
    stored = Stored(value)
    text = stored.paged("text", pushdown=Items(stored, patience))
    kind: Any = PagedDict if isinstance(value, dict) else PagedList
    return kind(text, stored.paged("directory"), len(value))


@pytest.mark.parametrize("patience", [1, 2, 100])
def test_a_search_says_in_which_item_a_hit_is(patience: int) -> None:
    for value in (LOGS, [*LOGS.values()]):
        context = searched(value, patience)
        keys = ["a.log", "n", "b.log", "b.log"] if isinstance(value, dict) else [0, 2, 3, 3]
        hits = context.search(USER)
        assert [hit.key for hit in hits] == keys
        assert [hit["number"] for hit in hits] == ["17", "3", "4", "5"]
        assert [hit.groups("-")[1] for hit in hits] == ["ok", "-", "bad", "ok"]
        assert hits.next is None
        for hit in hits[:1] + hits[2:]:
            assert context[hit.key][hit.start : hit.stop] == hit.text
            assert context[hit.key][slice(*hit.span(1))] == hit[1]
        assert context.count_matches(USER) == 4
        assert context.search("nobody") == []
        assert context.count_matches(r"^\w") == 2  # of each item its own beginning


def test_a_search_through_items_goes_on_where_it_stopped() -> None:
    context = searched(LOGS)
    found: list[Any] = []
    at: Any = 0
    while at is not None:
        hits = context.search(r"\d", start=at, limit=1)
        found += [(hit.key, hit.text) for hit in hits]
        at = hits.next
    assert found == [("a.log", "1"), ("a.log", "7"), ("n", "1"), ("n", "3"), ("b.log", "4"), ("b.log", "5")]
    assert [hit.text for hit in context.search(r"\d", start=3)] == ["4", "5"]  # from an item on
    assert [hit.text for hit in context.search(r"\d", start=-1)] == ["4", "5"]
    assert context.search("x", start=99) == []
    for start in ((3, -5), (3, 10**20)):
        assert len(context.search(r"\d", start=start)) <= 3
    with pytest.raises(TypeError, match="flags go into the pattern"):
        context.search("a", re.I)
    with pytest.raises(ValueError, match="at least 1"):
        context.search("a", limit=0)


@pytest.mark.parametrize("patience", [1, 100])
def test_a_search_of_a_part_finds_what_is_in_its_items(patience: int) -> None:
    part = searched(LOGS, patience).part(1, -1)
    assert [(hit.key, hit.text) for hit in part.search(USER)] == [("n", "user 3")]
    listed = searched([*LOGS.values()], patience).part(2)
    found: list[Any] = []
    at: Any = 0
    while at is not None:
        hits = listed.search(r"\d", start=at, limit=1)
        found += [(hit.key, hit.text) for hit in hits]
        at = hits.next
    assert found == [(0, "1"), (0, "3"), (1, "4"), (1, "5")]
    assert (part.count_matches(USER), listed.count_matches(USER), listed.part(0, 0).count_matches("u")) == (1, 3, 0)
    assert [*listed.lines()] == ['[1,"user 3"]', "user 4: bad", "user 5: ok"]


def test_the_lines_of_all_items() -> None:
    assert [*searched(LOGS).lines()] == ["start", "user 17: ok", '[1,"user 3"]', "user 4: bad", "user 5: ok"]
    assert [*searched([*LOGS.values()]).lines(keepends=True)][:2] == ["start\n", "user 17: ok\n"]
    with pytest.raises(TypeError, match=r"write context\[key\]\.lines\(a, b\)"):
        searched(LOGS).lines(1, 2)


def test_an_item_is_a_str_that_can_be_searched() -> None:
    for item in (searched(LOGS)["a.log"], next(iter(searched([*LOGS.values()])))):
        assert item == LOGS["a.log"]
        hits: Any = item.search(USER)
        assert [(hit.start, hit.stop, hit[1], hit.groups()) for hit in hits] == [(6, 17, "17", ("17", "ok"))]
        assert item.search("[a-z]+", limit=2).next == 10
        assert [hit.text for hit in item.search(re.compile("START|OK", re.I), 1)] == ["ok"]
        assert item.count_matches(r"(?m)^\w") == 2
        assert ([*item.lines()], item.lines(1, 2)) == (["start", "user 17: ok"], ["user 17: ok"])
        # What else a `str` is.
        assert isinstance(item, str)
        assert {item: 1}.get(str(item)) == 1
        assert (repr(item), f"{item:.2}", json.dumps(item)) == (repr(str(item)), "st", json.dumps(str(item)))
        assert (repr(type(item)), item.__class__) == ("<class 'str'>", str)
        for plain_one in (item[1:], item.upper(), item + "", copy.deepcopy(item)):
            assert type(plain_one) is str
