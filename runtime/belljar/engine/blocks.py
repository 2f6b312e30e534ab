"""The code in a root model's reply: what is a block, which blocks are run, and what is left out and why.

Models are asked for one form and write many. The reply is read line by line, once, from its start:

* An *opening fence* is a line of three or more backticks or tildes, perhaps indented or after a list marker, perhaps
  followed by a label: the first word, in any case (`python title=x`, `{python}`). Text that ends a phrase (`Here it
  is:`) may come before backticks that nothing but a label for code follows. `repl`, `python`, `py` and their like are
  run. So is a block without a label, if it is Python: only the box compiles what a model wrote, so it is tried there.
  Blocks with any other label are left out.
* A *closing fence* is one of the same kind, at least as long, in code. Python has no use for three backticks outside
  strings and comments, so they also close a block at the end of a line of code, whatever text follows them. Within a
  string they are part of it: prompts quote fences. Quotes decide what is a string (`_string_end`); one that never ends
  is a slip, and then the next line with a fence closes the block.
* A block that is not closed ends with the reply. If the reply was cut off, or ends within a string, it is not run. Of
  one that was cut off the next reply may bring the rest: in its first block, if that has the label `continue`. Both are
  then read as if they had been written in one.
* Indentation that all lines of a block share is removed. Line ends may be CRLF, a byte order mark may come first.
* `<think>...</think>` before the answer, or the like of it, is a draft, and nothing in it is run.

Each character is looked at a constant number of times: a string that does not end is searched for once for each kind of
quotes, as a later one of that kind would have been its end. Nothing here compiles or parses code.
"""

from __future__ import annotations

import re
from typing import Final as Const

import msgspec

from belljar.heavy import SLICE_BYTES, give_way, whole

__all__ = ["Block", "Found", "find_blocks"]

# More than any model writes (128,000 tokens); the rest of such a reply is not looked at.
_REPLY_CHARS_MAX: Const = 1 << 20
# Blocks are run until one prints, so those after this many are not run anyway.
_BLOCKS_MAX: Const = 64
_REASONS_MAX: Const = 8
_LABEL_CHARS_MAX: Const = 20
# A match can be recognised within this many characters.
_OVERLAP_CHARS: Const = 16

_RUN: Const = re.compile("`{3,}|~{3,}")
_FENCE: Const = re.compile("^[ \t]*(`{3,}|~{3,})", re.MULTILINE)
_PREFIX: Const = re.compile(r"[ \t]*(?:(?:[-*+]|[0-9]{1,9}[.)])[ \t]+)?")
_LABEL: Const = re.compile(r"[\s{.]*([A-Za-z][A-Za-z0-9_]*)")
_CODE_LABEL: Const = re.compile(r"repl|i?python[0-9]*|py[0-9]*")
# A call, an import or an assignment; attributes have no blanks around their `=`.
_CODE_BEHIND_LABEL: Const = re.compile(r"[ \t]{1,8}(?:[A-Za-z_][\w.]*(?:\(| += )|(?:import|from|for|if|def|print) )")
_CONTINUED: Const = "continue"
# In code, where the meaning of what follows may change.
_SPECIAL: Const = re.compile("[#'\"\\\\]|`+|~+")
_IN_STRING: Const = {quote: re.compile(rf"[{quote}\\\n]") for quote in "'\""}
# What models put around what they think, where their server leaves it in the text. Of the first kind the end may come
# alone; one of the others would end a draft that is a prompt, too.
_THINKING: Const = re.compile(
    r"\s*(<think>|<thinking>|<seed:think>|\[THINK\]|◁think▷|<antThinking>|<thought>|<reasoning>)", re.IGNORECASE
)
_THOUGHT: Const = re.compile(r"</(?:think|thinking|seed:think)>|\[/THINK\]|◁/think▷", re.IGNORECASE)


class Block(msgspec.Struct, frozen=True):
    """Code to be run. `label` is the fence's, in lower case; `closed` says that a fence ended it.

    `fences` says that lines which look like fences were taken as part of its strings.
    """

    code: str
    label: str
    closed: bool = True
    fences: bool = False


class Found(msgspec.Struct, frozen=True):
    """What a reply contains: blocks to be run one after the other, and messages about what is not run.

    `unfinished` is a last block that must not be run, `blank` says that there is only white space and thinking.
    `reply` is all of it, without lone surrogates; `text` is what of that can be sent back: no thinking.
    """

    blocks: tuple[Block, ...]
    left_out: tuple[str, ...]
    unfinished: Block | None
    blank: bool
    text: str
    reply: str


def find_blocks(reply: str, *, cut: bool = False, begun: str = "") -> Found:
    """The blocks of a reply. `cut` says that it was cut off: a block that is open at its end is then not run.

    `begun` are the lines of a block that the reply before was cut off in, which this one may go on with.
    """
    text = whole(reply)
    left_out = [] if text == reply else ["Lone surrogates in your reply were replaced: they are not text."]
    if len(text) > _REPLY_CHARS_MAX:
        text = text[:_REPLY_CHARS_MAX]
        left_out.append(f"Only the first {_REPLY_CHARS_MAX:,} characters of your reply were looked at.")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    answer = text[_thinking_end(text) :]
    if _RUN.search(text, 0, len(text) - len(answer)):
        left_out.append("Blocks in your thinking were not run.")
    scan = _Scan(_joined(begun, answer) if begun else answer, left_out)
    scan.look()
    unfinished = None
    if scan.blocks and not scan.blocks[-1].closed and (cut or scan.in_string):
        unfinished = scan.blocks.pop()
    reasons = tuple(dict.fromkeys(scan.left_out))
    return Found(tuple(scan.blocks), reasons[:_REASONS_MAX], unfinished, not answer.strip(), answer, text)


def _joined(begun: str, answer: str) -> str:
    """The answer with the lines that its first block goes on with, if that is labelled so."""
    fence = _search(_FENCE, answer, 0)
    if fence is None:
        return answer
    line_end = _line_end(answer, fence.end())
    if _label(answer[fence.end() : line_end]) != _CONTINUED:
        return answer
    return f"{answer[: fence.start()]}{fence[1]}repl\n{begun}{answer[line_end + 1 :]}"


def _thinking_end(text: str) -> int:
    """Where the answer begins. Some servers send the end of the thinking without its beginning."""
    begun = _THINKING.match(text)
    if begun is not None:
        mark = begun[1]
        closing = f"{mark[0]}/{mark[1:]}"
        pattern = _THOUGHT if _THOUGHT.fullmatch(closing) else re.compile(re.escape(closing), re.IGNORECASE)
        end = _search(pattern, text, begun.end())
        return len(text) if end is None else end.end()
    end = _search(_THOUGHT, text, 0)
    if end is None or text[text.rfind("\n", 0, end.start()) + 1 : _line_end(text, end.end())].strip() != end[0]:
        return 0
    return end.end()


class _End(msgspec.Struct, frozen=True):
    """Where a block's code stops, and where the text after it goes on."""

    stop: int
    after: int
    closed: bool = True
    fences: bool = False
    in_string: bool = False


class _Scan:
    """One pass over a reply."""

    def __init__(self, text: str, left_out: list[str]) -> None:
        self._text = text
        self._way_at = SLICE_BYTES
        self.blocks: list[Block] = []
        self.left_out = left_out
        self.in_string = False

    def look(self) -> None:
        """Find every fence that opens a block, and its block."""
        at, seen = 0, 0
        while (run := self._next(_RUN, at)) is not None:
            line, line_end = self._text.rfind("\n", at, run.start()) + 1, _line_end(self._text, run.end())
            prefix = self._text[max(line, at) : run.start()]
            info = self._text[run.end() : line_end]
            at = line_end + 1
            indent = len(prefix) if _PREFIX.fullmatch(prefix) else 0
            opens = indent == len(prefix) or _opens_behind_text(run[0], prefix, info)
            if not opens or (run[0][0] == "`" and "`" in info):
                self._no_fence(prefix, info)
                continue
            if seen == _BLOCKS_MAX:
                self.left_out.append(f"Only the first {_BLOCKS_MAX} blocks of a reply are looked at.")
                return
            seen += 1
            at = self._block(run[0], info, indent, at)

    def _no_fence(self, prefix: str, info: str) -> None:
        if ">" in prefix and not prefix.strip(" \t>"):
            self.left_out.append("A block in a quotation (lines that begin with >) was not run.")
        elif _PREFIX.fullmatch(prefix) and _CODE_LABEL.fullmatch(_label(info)):
            self.left_out.append("A block on a single line was not run: put the code on lines between the fences.")

    def _block(self, fence: str, info: str, indent: int, at: int) -> int:
        """Take the block whose code begins at `at`; return where to go on."""
        label = _label(info)
        if label and not _CODE_LABEL.fullmatch(label):
            named = label if len(label) <= _LABEL_CHARS_MAX else f"{label[:_LABEL_CHARS_MAX]}..."
            self.left_out.append(f"A block labelled `{named}` was not run: only Python is, in blocks labelled `repl`.")
            return self._other_end(fence, at)
        end = self._code_end(fence, at)
        code = _dedented(self._text[at : end.stop], indent)
        if code.strip():
            self.blocks.append(Block(code, label, end.closed, end.fences))
            self.in_string = end.in_string
        if _has_code(info):
            self.left_out.append("Code on the line of a fence was not run: begin it on the line below.")
        elif not code.strip():
            self.left_out.append("A block without code was left out.")
        return end.after

    def _other_end(self, fence: str, at: int) -> int:
        """Where the text goes on after a block that is not run."""
        while (run := self._next(_RUN, at)) is not None:
            before = self._text[max(self._text.rfind("\n", at, run.start()) + 1, at) : run.start()]
            line_end = _line_end(self._text, run.end())
            if run[0].startswith(fence) and not (before + self._text[run.end() : line_end]).strip():
                return line_end + 1
            at = line_end + 1
        return len(self._text)

    def _code_end(self, fence: str, start: int) -> _End:
        text, at, fences = self._text, start, False
        while (special := self._next(_SPECIAL, at)) is not None:
            here = special.start()
            match special[0][0]:
                case "#":
                    at = _line_end(text, here)
                case "\\":
                    at = here + 2
                case "`" | "~":
                    at = special.end()
                    if special[0].startswith(fence) and (end := self._closing(special, start, fences)) is not None:
                        return end
                case _:
                    at, ended = _string_end(text, here)
                    if not ended:
                        return self._slip(fence, here)
                    fences = fences or _fence_line(text, here, at) is not None
        return _End(len(text), len(text), closed=False, fences=fences)

    def _closing(self, run: re.Match[str], start: int, fences: bool) -> _End | None:
        """The end of the block, if this run of backticks or tildes in its code is one."""
        text, here = self._text, run.start()
        line = here
        while line > start and text[line - 1] in " \t":
            line -= 1
        alone = line == start or text[line - 1] == "\n"
        if run[0][0] == "~" and not alone:  # an operator
            return None
        line_end = _line_end(text, run.end())
        behind = text[run.end() : line_end]
        if run[0][0] == "~" and behind.strip():
            return None
        opens = alone and _opens(behind)
        return _End(line if alone else here, line if opens else line_end + 1, fences=fences)

    def _slip(self, fence: str, string: int) -> _End:
        """The end of a block in which a string does not end."""
        line = _fence_line(self._text, string, len(self._text), fence)
        if line is None:
            return _End(len(self._text), len(self._text), closed=False, in_string=True)
        line_end = _line_end(self._text, line)
        opens = _opens(self._text[line:line_end].lstrip(" \t").lstrip(fence[0]))
        return _End(line, line if opens else line_end + 1)

    def _next(self, pattern: re.Pattern[str], at: int) -> re.Match[str] | None:
        found = _search(pattern, self._text, at)
        if found is not None and found.start() >= self._way_at:
            self._way_at = found.start() + SLICE_BYTES
            give_way()
        return found


def _search(pattern: re.Pattern[str], text: str, at: int) -> re.Match[str] | None:
    """The first match from `at` on, in slices: one search through all of it would keep the interpreter to itself."""
    while at < len(text):
        found = pattern.search(text, at, at + SLICE_BYTES)
        if found is not None:
            return pattern.match(text, found.start())  # it may be longer than the slice shows
        if at + SLICE_BYTES >= len(text):
            return None
        at += SLICE_BYTES - _OVERLAP_CHARS
        give_way()
    return None


def _label(info: str) -> str:
    found = _LABEL.match(info)
    return found[1].lower() if found else ""


def _opens_behind_text(fence: str, prefix: str, info: str) -> bool:
    """Whether a fence opens a block although text comes before it on its line: with a label for code, and no more.

    In the midst of a phrase it is spoken of, and the line ends by chance.
    """
    if fence[0] != "`" or len(info) > _LABEL_CHARS_MAX or prefix.lstrip(" \t").startswith(">"):
        return False
    before = prefix.rstrip()[-1:]
    if before.isalnum() or before == ",":
        return False
    return _CODE_LABEL.fullmatch(info.strip().lower()) is not None


def _has_code(info: str) -> bool:
    """Whether code follows the label on a fence's line, and not an attribute of the block."""
    found = _LABEL.match(info)
    return found is not None and _CODE_BEHIND_LABEL.match(info, found.end()) is not None


def _opens(behind: str) -> bool:
    """Whether the text after a fence makes it open a block: its author forgot to close the one before."""
    return behind[:1].isalpha() and _CODE_LABEL.fullmatch(_label(behind)) is not None


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end


def _string_end(text: str, at: int) -> tuple[int, bool]:
    """The end of the string that opens at `at`, and whether it has one. Raw or not, a backslash keeps a quote in it."""
    quote = text[at]
    if text.startswith(quote * 3, at):
        end = text.find(quote * 3, at + 3)
        while end >= 0 and _escaped(text, end, at + 3):
            end = text.find(quote * 3, end + 1)
        return (len(text), False) if end < 0 else (end + 3, True)
    at += 1
    while (special := _IN_STRING[quote].search(text, at)) is not None:
        if special[0] != "\\":
            return special.end(), True  # or it is left open at its line's end, and the next line is code again
        at = special.end() + 1
    return len(text), True


def _escaped(text: str, at: int, start: int) -> bool:
    """Whether an odd number of backslashes comes before `at`."""
    first = at
    while first > start and text[first - 1] == "\\":
        first -= 1
    return (at - first) % 2 == 1


def _fence_line(text: str, start: int, stop: int, fence: str = "```") -> int | None:
    """The start of the first line after `start` that begins with a fence."""
    at = text.find("\n", start, stop)
    while at >= 0:
        run = text.find(fence, at + 1, stop)
        if run < 0:
            return None
        line = text.rfind("\n", at, run) + 1
        if not text[line:run].strip():
            return line
        at = text.find("\n", run, stop)
    return None


def _dedented(code: str, indent: int) -> str:
    """Remove up to `indent` blanks from each line, and then what all lines share."""
    lines = code.split("\n")
    if indent:
        lines = [line[min(indent, len(line) - len(line.lstrip(" \t"))) :] for line in lines]
    first = next((line for line in lines if line.strip()), "")
    margin = first[: len(first) - len(first.lstrip(" \t"))]
    if margin and all(line.startswith(margin) or not line.strip() for line in lines):
        lines = [line.removeprefix(margin) for line in lines]
    return "\n".join(lines) if indent or margin else code
