"""`ast`, for restricted programs: trees to look at, to walk through and to print. They are never made into code.

The library's own functions for trees are Python code that trusts whatever it finds in a tree: they read attributes by
the names that an object lists in `_fields`, and call what they take for a node. A program cannot derive from a node
class, nor set an attribute of a node; but the lists in a tree are lists, into which it may put its own objects. So:

- the walk here follows a node only if it is *exactly* one of Python's (`_KINDS`), and reads the fields that its class
  lists, never those of the object;
- where the library's own code is useful (`dump`, `unparse`, `literal_eval`), it gets a rebuilt tree that has only
  nodes, lists and constants (`_vetted`);
- the classes are shown as views: they work with `isinstance` and have names, but make no objects, because their
  constructor sets whatever attributes it is given.
"""

from __future__ import annotations

import _ast
import ast
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from guest.context.paged import plain
from guest.exact import exact_text
from guest.language import guards

__all__ = ["NodeVisitor", "members", "quiet"]

# As for a cell; a tree takes about a hundred times its source.
_SOURCE_CHARS_MAX = 256 * 1024
_KINDS = frozenset(one for one in vars(_ast).values() if isinstance(one, type) and issubclass(one, ast.AST))
_CONSTANTS = frozenset({str, bytes, int, float, complex, bool, type(None), type(...)})
_MODES = ("exec", "eval", "single")


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings: models write '\\d' in plain strings, which is not worth a SyntaxWarning in the output."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _parse(source: Any, filename: Any = "<unknown>", mode: str = "exec", *, type_comments: bool = False) -> ast.AST:
    """`ast.parse`."""
    text, wanted = _source(source), exact_text(mode)
    if wanted not in _MODES:
        raise ValueError(f"the mode must be one of {', '.join(_MODES)}")
    with quiet():
        tree: ast.AST = ast.parse(text, "<unknown>", wanted, type_comments=type_comments is True)
        return tree


def _source(source: Any) -> str | bytes:
    text = plain(source)
    if type(text) not in (str, bytes):
        raise TypeError(f"the source must be a str, not {type(text).__name__}")
    if len(text) > _SOURCE_CHARS_MAX:
        raise ValueError(
            f"a source of {len(text):,} characters is over the limit of {_SOURCE_CHARS_MAX:,}: "
            "take it in parts, or json.loads for data"
        )
    return text  # type: ignore[no-any-return]


def _literal_eval(node_or_string: Any) -> Any:
    """`ast.literal_eval`."""
    with quiet():
        if type(node_or_string) in _KINDS:
            return ast.literal_eval(_vetted(node_or_string))
        text = _source(node_or_string)
        return ast.literal_eval(text.decode() if isinstance(text, bytes) else text)


def _is_node(value: Any) -> bool:
    return type(value) in _KINDS


def _node(value: Any) -> ast.AST:
    if type(value) not in _KINDS:
        raise TypeError(f"this takes a node of a tree from ast.parse, not {type(value).__name__}")
    return value  # type: ignore[no-any-return]


def _iter_fields(node: Any) -> Iterator[tuple[str, Any]]:
    """`ast.iter_fields`."""
    nothing = object()
    for name in type(_node(node))._fields:
        value = getattr(node, name, nothing)
        if value is not nothing:
            yield name, value


def _iter_child_nodes(node: Any) -> Iterator[ast.AST]:
    """`ast.iter_child_nodes`."""
    for _, value in _iter_fields(node):
        yield from filter(_is_node, [*value] if type(value) is list else [value])


def _walk(node: Any) -> Iterator[ast.AST]:
    """`ast.walk`."""
    todo = deque([_node(node)])
    while todo:
        one = todo.popleft()
        todo.extend(_iter_child_nodes(one))
        yield one


def _vetted(value: Any) -> Any:
    """The same tree, rebuilt. Raises TypeError for anything that is not part of a tree."""
    if type(value) is list:
        return [_vetted(one) for one in value]
    if type(value) not in _KINDS:
        if type(value) in _CONSTANTS:
            return value
        raise TypeError(f"a tree can only hold nodes and constants, not {type(value).__name__}")
    new, own = type(value)(), vars(value)
    for name in (*type(value)._fields, *type(value)._attributes):
        if name in own:
            vars(new)[name] = _vetted(own[name])
    return new


def _dump(
    node: Any, annotate_fields: bool = True, include_attributes: bool = False, *, indent: int | str | None = None
) -> str:
    """`ast.dump`."""
    step = exact_text(indent)
    options = {"annotate_fields": annotate_fields is True, "include_attributes": include_attributes is True}
    return ast.dump(_vetted(_node(node)), **options, indent=step if type(step) in (int, str) else None)


def _unparse(node: Any) -> str:
    """`ast.unparse`."""
    return ast.unparse(_vetted(_node(node)))


def _get_docstring(node: Any, clean: bool = True) -> str | None:
    """`ast.get_docstring`."""
    return ast.get_docstring(_vetted(_node(node)), clean is True)


def _get_source_segment(source: Any, node: Any) -> str | None:
    """`ast.get_source_segment`."""
    text = _source(source)
    return ast.get_source_segment(text, _vetted(_node(node))) if type(text) is str else None


class NodeVisitor:
    """`ast.NodeVisitor`: a base class whose methods `visit_Name`, `visit_Call` ... are called by the kind of node."""

    def visit(self, node: Any) -> Any:
        """Call the method for this kind of node, else `generic_visit`."""
        visitor: Any = guards.guest_getattr(self, f"visit_{type(_node(node)).__name__}", None)
        return self.generic_visit(node) if visitor is None else visitor(node)

    def generic_visit(self, node: Any) -> Any:
        """Visit all children."""
        for child in [*_iter_child_nodes(node)]:
            self.visit(child)


def members() -> dict[str, object]:
    """What `import ast` offers."""
    kinds = {cls.__name__: guards.show_type(cls) for cls in _KINDS}
    functions = {
        "parse": _parse,
        "literal_eval": _literal_eval,
        "walk": _walk,
        "dump": _dump,
        "unparse": _unparse,
        "iter_fields": _iter_fields,
        "iter_child_nodes": _iter_child_nodes,
        "get_docstring": _get_docstring,
        "get_source_segment": _get_source_segment,
    }
    return {**kinds, **functions, "NodeVisitor": NodeVisitor}
