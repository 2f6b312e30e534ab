# ruff: noqa: N802 - a node visitor's methods carry the node's name
"""The restricted language: ordinary Python without the ways out of it. A second wall, inside the box.

A cell passes four stages; each may reject it, with a line and advice on what to write instead:

1. `_parse`: size first, then Python's own parser.
2. `_survey`: one loop (no recursion) over the tree counts nodes and depth and refuses every node kind *and every
   field* that the table `_FIELDS` does not list. What nobody has reviewed is refused, on any Python version.
3. `_Policy`: RestrictedPython's visitor, with most of its verdicts replaced so that what models write runs: augmented
   and annotated assignment, `nonlocal`, `match`, classes with special methods, names like `_tmp`. It sorts every
   attribute name with `guards.kind_of` and puts a guard around each read and each write of an attribute.
4. `compile`, without inheriting this file's own `__future__` flags.

What the visitor generates:

    a.b             .checked(a.b)                        a._b         .private(a, '_b')
    a.__name__      .dunder(a, '__name__')               a.format     .special(a, 'format')
    a.b = v         .writable(a, 'b').b = v              del a.b      del .writable(a, 'b').b
    a.b += v        .t0 = a; .t1 = .checked(.t0.b); .t1 += v; .writable(.t0, 'b').b = .t1; del .t0, .t1
    super()         .super(__class__, self)
    match           tests and assignments (see `patterns`)

Names with a leading dot cannot be written in Python source, so a guest program can neither call, replace nor shadow a
guard. Items, iteration and calls carry no guard: no policy depends on them, and CPython iterates in C in more places
than a guard could cover. Limits on time, memory and output belong to the box, not to the language.
"""

import ast
import builtins
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from RestrictedPython.transformer import RestrictingNodeTransformer

from guest.language import facades, guards, patterns
from guest.language.guards import MARK, METHOD_DUNDERS, TOKEN, Kind, denial, is_dunder, kind_of
from guest.language.patterns import at, load, store
from guest.language.program import show_last, shown
from guest.language.streams import Streams
from guest.language.trees import quiet

__all__ = ["Rejected", "compile_cell", "make_globals", "preload", "transform", "user_variables"]


# A model's turn is a few KB; a table pasted into code may be larger. Compiling this much takes less than a second.
_SOURCE_BYTES_MAX = 256 * 1024
_NODES_MAX = 50_000
# The visitor and CPython's compiler recurse: about four Python frames for each level, out of a thousand.
_DEPTH_MAX = 150
_ERRORS_MAX = 20


_Place = tuple[int | None, int | None, int | None, int | None]


class Rejected(Exception):
    """The program is not in the restricted language, or not in Python at all.

    `line` is the first offending line (1-based) or None; `message` says what is wrong there and what to write
    instead; `collected` lists every finding as `(line, message)`, at most 20. `place` is where the first one is: line
    and column, from 1, of its beginning and its end.
    """

    place: _Place | None = None
    text: str | None = None

    def __init__(
        self,
        line: int | None,
        message: str,
        collected: Sequence[tuple[int | None, str]] = (),
        node: ast.AST | None = None,
    ) -> None:
        self.line = line
        self.message = message
        self.collected = list(collected)[:_ERRORS_MAX] or [(line, message)]
        self.node = node
        super().__init__(message if line is None else f"line {line}: {message}")


def compile_cell(source: str, filename: str = "<cell>", *, show: bool = False) -> types.CodeType:
    """Compile one cell for `exec` in a namespace from `make_globals`. Raises `Rejected`, nothing else.

    With `show` the value of a last line that is an expression is shown, as in a notebook.
    """
    try:
        tree = transform(source, filename)
        if show:
            show_last(tree, source)
        return _compile(tree, filename)
    except Rejected as rejected:
        rejected.place = _place_of(rejected.node, source)
        raise
    except SyntaxError as error:
        told = Rejected(error.lineno, f"syntax error: {error.msg}")
        told.place, told.text = (error.lineno, error.offset, error.end_lineno, error.end_offset), error.text
        raise told from None
    except (MemoryError, RecursionError, SystemError):
        raise Rejected(None, "the program is too deeply nested: split it into statements or functions") from None
    except (ValueError, TypeError, OverflowError) as error:
        raise Rejected(None, f"this is not a program: {str(error)[:200]}") from None


def _place_of(node: ast.AST | None, source: str) -> _Place | None:
    """Where a node is. The parser counts bytes."""
    lines = source.splitlines()
    ends: list[int] = []
    for line, offset in (("lineno", "col_offset"), ("end_lineno", "end_col_offset")):
        number, before = getattr(node, line, None), getattr(node, offset, None)
        if type(number) is not int or type(before) is not int:
            return None
        text = lines[number - 1] if number <= len(lines) else ""
        ends += [number, len(text.encode("utf-8", "replace")[:before].decode("utf-8", "ignore")) + 1]
    return ends[0], ends[1], ends[2], ends[3]


def transform(source: str, filename: str = "<cell>") -> ast.Module:
    """The first three stages: source text to a guarded tree."""
    tree = _parse(source, filename)
    _survey(tree)
    if any(isinstance(node, ast.Match) for node in ast.walk(tree)):
        _compile(tree, filename)  # once a pattern is rewritten, its errors can no longer be reported
    policy = _Policy()
    policy.visit(tree)
    policy.raise_if_rejected()
    return ast.fix_missing_locations(tree)


def _parse(source: str, filename: str) -> ast.Module:
    try:
        size = len(source.encode("utf-8"))
    except UnicodeEncodeError:
        raise Rejected(None, "the program contains a lone surrogate: write '\\udXXX' as an escape instead") from None
    if size > _SOURCE_BYTES_MAX:
        raise Rejected(None, f"the program has {size} bytes, at most {_SOURCE_BYTES_MAX} are allowed: send it in parts")
    with quiet():
        return ast.parse(source, filename)


def _compile(tree: ast.Module, filename: str) -> types.CodeType:
    with quiet():
        return compile(tree, filename, "exec", dont_inherit=True)


# ---------------------------------------------------------------------------------------------------------------------
# The survey: kinds, fields, size, depth

_FIELDS: dict[str, frozenset[str]] = {
    kind: frozenset(fields.split())
    for kind, fields in {
        "Module": "body type_ignores",
        "FunctionDef": "name args body decorator_list returns type_comment",
        "ClassDef": "name bases keywords body decorator_list",
        "Return": "value",
        "Delete": "targets",
        "Assign": "targets value type_comment",
        "AugAssign": "target op value",
        "AnnAssign": "target annotation value simple",
        "For": "target iter body orelse type_comment",
        "While": "test body orelse",
        "If": "test body orelse",
        "With": "items body type_comment",
        "Match": "subject cases",
        "Raise": "exc cause",
        "Try": "body handlers orelse finalbody",
        "Assert": "test msg",
        "Import": "names",
        "ImportFrom": "module names level",
        "Global": "names",
        "Nonlocal": "names",
        "Expr": "value",
        "BoolOp": "op values",
        "NamedExpr": "target value",
        "BinOp": "left op right",
        "UnaryOp": "op operand",
        "Lambda": "args body",
        "IfExp": "test body orelse",
        "Dict": "keys values",
        "Set": "elts",
        "ListComp": "elt generators",
        "SetComp": "elt generators",
        "DictComp": "key value generators",
        "GeneratorExp": "elt generators",
        "Yield": "value",
        "YieldFrom": "value",
        "Compare": "left ops comparators",
        "Call": "func args keywords",
        "FormattedValue": "value conversion format_spec",
        "JoinedStr": "values",
        "Constant": "value kind",
        "Attribute": "value attr ctx",
        "Subscript": "value slice ctx",
        "Starred": "value ctx",
        "Name": "id ctx",
        "List": "elts ctx",
        "Tuple": "elts ctx",
        "Slice": "lower upper step",
        "comprehension": "target iter ifs is_async",
        "ExceptHandler": "type name body",
        "arguments": "posonlyargs args vararg kwonlyargs kw_defaults kwarg defaults",
        "arg": "arg annotation type_comment",
        "keyword": "arg value",
        "alias": "name asname",
        "withitem": "context_expr optional_vars",
        "match_case": "pattern guard body",
        "MatchValue": "value",
        "MatchSingleton": "value",
        "MatchSequence": "patterns",
        "MatchMapping": "keys patterns rest",
        "MatchClass": "cls patterns kwd_attrs kwd_patterns",
        "MatchStar": "name",
        "MatchAs": "pattern name",
        "MatchOr": "patterns",
    }.items()
}
_BARE = (
    "Pass Break Continue Load Store Del And Or Add Sub Mult MatMult Div Mod Pow LShift RShift BitOr BitXor BitAnd "
    "FloorDiv Invert Not UAdd USub Eq NotEq Lt LtE Gt GtE Is IsNot In NotIn"
)
_FIELDS |= dict.fromkeys(_BARE.split(), frozenset[str]())

_THREADS = "use llm_query_batched(prompts), or concurrent.futures.ThreadPoolExecutor"
_KIND_ADVICE = {
    "AsyncFunctionDef": f"async functions are not available: {_THREADS}",
    "Await": f"await is not available: {_THREADS}",
    "AsyncFor": f"async for is not available: {_THREADS}",
    "AsyncWith": f"async with is not available: {_THREADS}",
    "TryStar": "except* is not available: use plain except",
    "TypeAlias": "the type statement is not available: leave it out",
    "TemplateStr": "template strings are not available: use an f-string",
}
_FIELD_ADVICE = {
    "type_params": "type parameters are not available: leave out the [T]",
    "is_lazy": "lazy imports are not available: write a plain import",
}


def _survey(tree: ast.AST) -> None:
    """Refuse unreviewed kinds and fields, and trees too large or too deep to be visited."""
    findings: list[tuple[int | None, str]] = []
    level: list[ast.AST] = [tree]
    nodes = depth = 0
    first: ast.AST | None = None
    while level and len(findings) < _ERRORS_MAX:
        nodes, depth = nodes + len(level), depth + 1
        if nodes > _NODES_MAX:
            raise Rejected(None, f"the program has more than {_NODES_MAX} parts: send it in several cells")
        if depth > _DEPTH_MAX:
            line = getattr(level[0], "lineno", None)
            raise Rejected(line, "the program is too deeply nested: split it into statements or functions")
        for node in level:
            found = [*_unreviewed(node)]
            first = node if found and not findings else first
            findings += found
        level = [child for node in level for child in ast.iter_child_nodes(node)]
    if findings:
        raise Rejected(*findings[0], findings, first)


def _unreviewed(node: ast.AST) -> Iterator[tuple[int | None, str]]:
    kind, line = type(node).__name__, getattr(node, "lineno", None)
    known = _FIELDS.get(kind)
    if known is None:
        yield line, _KIND_ADVICE.get(kind, f"{kind} is not part of this language: write it with plain statements")
        return
    for field in node._fields:
        if field not in known and getattr(node, field, None):
            yield line, _FIELD_ADVICE.get(field, f"{kind} with {field} is not part of this language: leave it out")
    if getattr(node, "is_async", 0):
        yield line, f"asynchronous comprehensions are not available: {_THREADS}"


# ---------------------------------------------------------------------------------------------------------------------
# The visitor

_NAMES_READABLE = frozenset({"__name__", "__doc__"})
_NAMES_ASSIGNABLE = frozenset({"__all__", "__version__", "__author__"})
_CLASS_BODY_NAMES = METHOD_DUNDERS | {"__slots__", "__doc__"}
_NAME_ADVICE = {
    "__import__": "use an import statement",
    "__builtins__": "call the built-in function by its name",
    "__file__": "there are no files; the document is in `context`",
    "__class__": "use type(self)",
    "__dict__": "use vars(obj)",
    "__match_args__": "match by keyword: case Point(x=0)",
    "__getattr__": "keep the values in a dict, or define properties",
    "__getattribute__": "keep the values in a dict, or define properties",
    "__setattr__": "define a property with a setter",
    "__delattr__": "define a method",
    "__del__": "use try/finally or a with block",
    "__init_subclass__": "use a class decorator",
    "__class_getitem__": "derive from typing.Generic",
    "__reduce__": "define __copy__ or __deepcopy__",
    "__metaclass__": "use a class decorator",
    "__get__": "use a property",
    "__set__": "use a property with a setter",
    "__set_name__": "use a property",
    "__await__": _THREADS,
    "__aiter__": _THREADS,
    "__aenter__": _THREADS,
}


class _Scope:
    """A module, class or function while it is visited."""

    def __init__(self, kind: str, name: str = "", first_argument: str | None = None) -> None:
        self.kind = kind
        self.name = name
        self.first_argument = first_argument


class _Policy(RestrictingNodeTransformer):
    """Verdicts per node. Kinds without a method here or in the base class are refused by `generic_visit`."""

    def __init__(self) -> None:
        super().__init__()
        self._findings: list[tuple[int | None, str]] = []
        self._first: ast.AST | None = None
        self._scopes = [_Scope("module")]
        self._temporaries = 0

    # Findings

    def error(self, node: ast.AST, info: str) -> None:
        if not self._findings:
            self._first = node
        if len(self._findings) < _ERRORS_MAX:
            self._findings.append((getattr(node, "lineno", None), info))

    def not_allowed(self, node: ast.AST) -> None:
        kind = type(node).__name__
        self.error(node, _KIND_ADVICE.get(kind, f"{kind} is not part of this language: write it with plain statements"))

    def raise_if_rejected(self) -> None:
        if self._findings:
            raise Rejected(*self._findings[0], self._findings, self._first)

    # Names

    def _check_identifier(self, node: ast.AST, name: str | None, *, reading: bool = False) -> None:
        if name is None or not is_dunder(name):
            return
        if self._scopes[-1].kind == "class" and name in _CLASS_BODY_NAMES:
            return
        if name not in _NAMES_ASSIGNABLE and not (reading and name in _NAMES_READABLE):
            advice = _NAME_ADVICE.get(name, "choose a name without two leading and trailing underscores")
            self.error(node, f"the name {name!r} is not available here: {advice}")

    def _mangled(self, name: str) -> str:
        """`__x` inside a class is `_Class__x`, as in the compiler."""
        if not name.startswith("__") or name.endswith("__"):
            return name
        owner = next((scope.name.lstrip("_") for scope in reversed(self._scopes) if scope.kind == "class"), "")
        return f"_{owner}{name}" if owner else name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        reading = isinstance(node.ctx, ast.Load)
        self._check_identifier(node, node.id, reading=reading)
        return node

    def visit_Global(self, node: ast.Global) -> ast.AST:
        for name in node.names:
            self._check_global(node, name)
        return node

    def _check_global(self, node: ast.AST, name: str) -> None:
        # In a class body `global __init__` would make the special method's name a global.
        if is_dunder(name):
            self.error(node, f"the name {name!r} is not available here: choose a name without double underscores")

    def visit_Nonlocal(self, node: ast.Nonlocal) -> ast.AST:
        for name in node.names:
            self._check_global(node, name)
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        self._check_identifier(node, node.arg)
        return self._inside(node)

    def visit_keyword(self, node: ast.keyword) -> ast.AST:
        self._check_identifier(node, node.arg)
        return self._inside(node)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        self._check_identifier(node, node.name)
        return self._inside(node)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.AST:
        return self._inside(node)

    def _inside(self, node: ast.AST) -> ast.AST:
        visited: ast.AST = self.node_contents_visit(node)
        return visited

    # Imports

    def visit_Import(self, node: ast.Import) -> ast.AST:
        for alias in node.names:
            self._check_import(node, alias.name, alias.asname)
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        if node.level:
            self.error(node, "relative imports are not available: write the module's full name")
        elif node.module != "__future__":
            self._check_import(node, node.module or "", None)
        for alias in node.names:
            self._check_import(node, alias.name, alias.asname)
        return node

    def _check_import(self, node: ast.AST, name: str, bound: str | None) -> None:
        if name == "*":
            self.error(node, "import * is not available: list the names that you need")
        elif any(part.startswith("_") for part in name.split(".")):
            self.error(
                node, f"the module {name!r} is not available: names with a leading underscore cannot be imported"
            )
        self._check_identifier(node, bound)

    # Attributes

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        name = self._mangled(node.attr)
        owner = self.visit(node.value)
        kind = self._kind(node, name, reading=isinstance(node.ctx, ast.Load))
        if isinstance(node.ctx, ast.Load):
            return self._read(node, owner, name, kind)
        return self._place(node, owner, name)

    def _kind(self, node: ast.AST, name: str, *, reading: bool) -> Kind:
        kind = kind_of(name)
        if not reading and kind is Kind.DUNDER and name not in ("__name__", "__qualname__", "__doc__"):
            kind = Kind.DENIED
        if kind is Kind.DENIED:
            self.error(node, denial(name))
        return kind

    def _read(self, node: ast.AST, owner: ast.expr, name: str, kind: Kind) -> ast.Call:
        if kind is Kind.PLAIN:
            return at(node, _guard("checked", ast.Attribute(owner, name, ast.Load())))
        return at(node, _guard(kind.value, owner, ast.Constant(name)))

    def _place(self, node: ast.Attribute, owner: ast.expr, name: str) -> ast.Attribute:
        """The target of a store or a deletion."""
        return at(node, ast.Attribute(_guard("writable", owner, ast.Constant(name)), name, node.ctx))

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        return self._inside(node)

    # Assignment

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        return self._inside(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if isinstance(node.target, ast.Name):
            return self._inside(node)
        if node.value is None:
            return at(node, ast.Pass())
        # `self.x: int = 1` keeps no annotation anywhere: an assignment says the same.
        return self._inside(at(node, ast.Assign([node.target], node.value)))

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST | list[ast.stmt]:
        if not isinstance(node.target, ast.Attribute):
            return self._inside(node)
        target = node.target
        name = self._mangled(target.attr)
        owner, value = self.visit(target.value), self.visit(node.value)
        self._kind(node, name, reading=False)
        first, second = self._temporary(), self._temporary()
        statements: list[ast.stmt] = [
            ast.Assign([store(first)], owner),
            ast.Assign([store(second)], self._read(target, load(first), name, kind_of(name))),
            ast.AugAssign(store(second), node.op, value),
            ast.Assign([self._place(target, load(first), name)], load(second)),
            ast.Delete([ast.Name(first, ast.Del()), ast.Name(second, ast.Del())]),
        ]
        return [at(node, statement) for statement in statements]

    def _temporary(self) -> str:
        self._temporaries += 1
        return f".t{self._temporaries}"

    # Iteration and unpacking carry no guard

    def visit_For(self, node: ast.For) -> ast.AST:
        return self._inside(node)

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        return self._inside(node)

    def visit_With(self, node: ast.With) -> ast.AST:
        return self._inside(node)

    def visit_TemplateStr(self, node: ast.AST) -> None:
        self.not_allowed(node)

    def visit_Interpolation(self, node: ast.AST) -> None:
        self.not_allowed(node)

    # Calls

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name):
            if node.func.id == "super" and not node.args and not node.keywords:
                return self._super_call(node)
            if node.func.id == "locals" and self._scopes[-1].kind != "module":
                self.error(node, "locals() is not available inside a function: keep the values in your own dict")
        return self._inside(node)

    def _super_call(self, node: ast.Call) -> ast.AST:
        first = self._scopes[-1].first_argument
        if first is None or not any(scope.kind == "class" for scope in self._scopes):
            self.error(node, "super() works inside the methods of a class: write super(ClassName, self) elsewhere")
            return node
        return at(node, _guard("super", load("__class__"), load(first)))

    # Functions and classes

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        self._check_identifier(node, node.name)
        node.decorator_list = self._each(node.decorator_list)
        node.returns = self.visit(node.returns) if node.returns else None
        self._visit_arguments(node.args)
        with self._scope("function", node.name, _first_argument(node.args)):
            node.body = self._each(node.body)
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self._visit_arguments(node.args)
        with self._scope("function", "<lambda>", _first_argument(node.args)):
            node.body = self.visit(node.body)
        return node

    def _visit_arguments(self, arguments: ast.arguments) -> None:
        # Defaults and annotations belong to the enclosing scope; only argument names are the function's.
        with self._scope("arguments"):
            self._inside(arguments)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._check_identifier(node, node.name)
        node.decorator_list = self._each(node.decorator_list)
        node.bases = self._each(node.bases)
        for keyword in node.keywords:
            self._check_class_keyword(keyword)
        node.keywords = self._each(node.keywords)
        with self._scope("class", node.name):
            node.body = self._each(node.body)
        return node

    def _check_class_keyword(self, keyword: ast.keyword) -> None:
        if keyword.arg == "metaclass":
            self.error(keyword, "metaclasses are not available: derive from abc.ABC, or use a class decorator")
        elif keyword.arg != "total":
            self.error(keyword, "keyword arguments are not available in a class statement: leave them out")

    def _each(self, nodes: Sequence[ast.AST]) -> list[Any]:
        results: list[Any] = []
        for node in nodes:
            visited = self.visit(node)
            results.extend(visited if isinstance(visited, list) else [visited])
        return results

    @contextmanager
    def _scope(self, kind: str, name: str = "", first_argument: str | None = None) -> Iterator[None]:
        self._scopes.append(_Scope(kind, name, first_argument))
        yield
        self._scopes.pop()

    def visit_Module(self, node: ast.Module) -> ast.AST:
        return self._inside(node)

    # Patterns

    def visit_Match(self, node: ast.Match) -> list[ast.stmt]:
        if self._scopes[-1].kind == "class":
            self.error(node, "match is not available in a class body: write it in a function")
        for case in node.cases:
            for part in ast.walk(case.pattern):
                self._check_pattern(part)
        return patterns.lowered(node, self.visit, self._each)

    def _check_pattern(self, node: ast.AST) -> None:
        if isinstance(node, ast.MatchAs | ast.MatchStar):
            self._check_identifier(node, node.name)
        elif isinstance(node, ast.MatchMapping):
            self._check_identifier(node, node.rest)
        elif isinstance(node, ast.MatchClass):
            for name in node.kwd_attrs:
                self._check_pattern_attribute(node, name)

    def _check_pattern_attribute(self, node: ast.AST, name: str) -> None:
        if kind_of(name) is not Kind.PLAIN:
            self.error(node, f"the attribute {name!r} is not available in a pattern: bind the object, then use if")


def _first_argument(arguments: ast.arguments) -> str | None:
    named = [*arguments.posonlyargs, *arguments.args]
    return named[0].arg if named else None


def _guard(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(load(f".{name}"), list(arguments), [])


# ---------------------------------------------------------------------------------------------------------------------
# The namespace

_GUARDS: dict[str, object] = {
    ".checked": guards.checked,
    ".private": guards.private,
    ".special": guards.special,
    ".dunder": guards.dunder,
    ".writable": guards.writable,
    ".super": guards.guest_super,
    "__build_class__": guards.build_class,
    **patterns.PATTERN_GUARDS,
}
_BUILTINS = (
    "abs all any ascii bin bool bytearray bytes callable chr classmethod complex dict divmod enumerate filter float "
    "format frozenset hash hex int isinstance issubclass iter len list map max min next object oct ord pow property "
    "range repr reversed round set slice sorted staticmethod str sum tuple zip "
    "Ellipsis False None NotImplemented True __debug__"
)
_UNAVAILABLE = {
    "open": "there are no files; the document is in `context`",
    "eval": "call the function that you mean, or use json.loads for data",
    "exec": "write the statements themselves",
    "compile": "write the statements themselves; for patterns use re.compile",
    "input": "nobody is there to answer; ask a model with llm_query(prompt)",
    "breakpoint": "use print()",
    "help": "use print()",
    "exit": "let the program end, or raise an exception",
    "quit": "let the program end, or raise an exception",
    "id": "compare with `is`, or use your own key",
    "memoryview": "use slices of bytes",
    "ExceptionGroup": "raise one exception, or collect them in a list",
    "BaseExceptionGroup": "raise one exception, or collect them in a list",
    "aiter": _THREADS,
    "anext": _THREADS,
}


class _Unavailable:
    """Takes the place of a built-in function that is left out, and says what to use instead."""

    __slots__ = ("_message",)

    def __init__(self, name: str, advice: str) -> None:
        self._message = f"{name} is not available: {advice}"

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        raise NameError(self._message)

    def __repr__(self) -> str:
        return f"<{self._message}>"


def make_globals(
    *,
    write: Callable[[str, str], None],
    names: dict[str, object],
    regex: types.ModuleType | None = None,
) -> dict[str, object]:
    """The namespace in which all cells of a session are executed.

    `write(stream, text)` receives what the program prints, `stream` being "stdout" or "stderr"; `names` are the guest
    names (`context`, `llm_query`, ...); `regex` is what `import re` returns, by default the standard `re`. Call it
    after the last fork: it seeds the run's `random`.
    """
    namespace: dict[str, object] = {"__name__": "__main__", "__doc__": None, MARK: TOKEN, **names}
    scope = _spare_scopes.pop() if _spare_scopes else _common_scope()
    streams = Streams(write)
    scope["__import__"] = facades.Importer(write, regex, streams)
    scope |= _introspection(namespace) | {"print": _printer(streams), ".names": dict(names)}
    scope[".show"] = lambda value: write("stdout", shown(value))
    namespace["__builtins__"] = scope
    return namespace


def _common_scope() -> dict[str, object]:
    """What is the same in every session."""
    scope: dict[str, object] = {name: getattr(builtins, name) for name in _BUILTINS.split()}
    scope |= {name: error for name, error in vars(builtins).items() if _is_plain_exception(error)}
    scope |= {name: _Unavailable(name, advice) for name, advice in _UNAVAILABLE.items()}
    scope |= _GUARDS | {"type": guards.TYPE, "super": guards.guest_super}
    scope |= {"getattr": guards.guest_getattr, "hasattr": guards.guest_hasattr}
    return scope | {"setattr": guards.guest_setattr, "delattr": guards.guest_delattr}


# Made ahead by `preload`: gathering these touches objects all over the interpreter, and in a fresh clone each touch
# copies a page, which takes 1 ms in all.
_spare_scopes: list[dict[str, object]] = []


def preload() -> None:
    """Import everything that any facade needs, and make one session's common names. For the zygote."""
    facades.preload()
    _spare_scopes.append(_common_scope())


def _is_plain_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException) and not issubclass(value, BaseExceptionGroup)


def user_variables(namespace: dict[str, object]) -> dict[str, object]:
    """What the guest program defined: a new dict without guards, imported modules and the names it was given."""
    scope = namespace["__builtins__"]
    assert isinstance(scope, dict)
    given: dict[str, object] = scope[".names"]
    return {
        name: value
        for name, value in namespace.items()
        if _is_own_name(name) and type(value) is not facades.Facade and not (name in given and given[name] is value)
    }


def _is_own_name(name: str) -> bool:
    return not name.startswith(".") and not is_dunder(name)


class _NamesView(guards.AttributeView):
    """`globals()`: a dict whose changes go to the program's names."""

    __slots__ = ()

    def __init__(self, namespace: dict[str, object]) -> None:
        dict.__init__(self, {name: value for name, value in namespace.items() if _is_own_name(name)})
        self._owner: dict[str, object] = namespace

    def __setitem__(self, name: str, value: object) -> None:
        if type(name) is not str or not name.isidentifier() or not _is_own_name(name):
            raise TypeError("a name must be an identifier without two leading and trailing underscores")
        self._owner[name] = value
        dict.__setitem__(self, name, value)

    def __delitem__(self, name: str) -> None:
        dict.__delitem__(self, name)
        self._owner.pop(name, None)


def _introspection(namespace: dict[str, object]) -> dict[str, object]:
    def variables() -> dict[str, object]:
        return _NamesView(namespace)

    def guest_vars(*value: object) -> object:
        return guards.guest_vars(*value) if value else variables()

    def guest_dir(*value: object) -> list[str]:
        return guards.guest_dir(*value) if value else sorted(variables())

    return {"globals": variables, "locals": variables, "vars": guest_vars, "dir": guest_dir}


def _printer(streams: Streams) -> Callable[..., None]:
    def guest_print(
        *values: object, sep: str | None = " ", end: str | None = "\n", file: object = None, flush: bool = False
    ) -> None:
        for option in (sep, end):
            if option is not None and type(option) is not str:
                raise TypeError("sep and end of print() must be strings")
        text = (" " if sep is None else sep).join([str(value) for value in values]) + ("\n" if end is None else end)
        streams.into(file, "stdout", text)

    guest_print.__name__ = guest_print.__qualname__ = "print"
    return guest_print
