"""The long document: take it in once, then read any slice of it in time that does not grow with it."""

from belljar.context.document import Document, OpenDocument
from belljar.context.search import Question, Searcher, Tracked
from belljar.context.store import ContextStore

__all__ = ["ContextStore", "Document", "OpenDocument", "Question", "Searcher", "Tracked"]
