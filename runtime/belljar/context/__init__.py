"""The long context: store it once, then read any slice of it in time that does not grow with it."""

from belljar.context.document import Document, Kind, OpenDocument
from belljar.context.encodings import Errors
from belljar.context.folder import LeftOut
from belljar.context.intake import OnProgress
from belljar.context.items import FirstItem, first_items
from belljar.context.parts import Part, Span, View, view_of, within
from belljar.context.store import (
    ContextStore,
    ContextStores,
    FileSource,
    Loan,
    OnLeftOut,
    Source,
    Swept,
)
from belljar.context.uploads import Upload, Uploads

__all__ = [
    "ContextStore",
    "ContextStores",
    "Document",
    "Errors",
    "FileSource",
    "FirstItem",
    "Kind",
    "LeftOut",
    "Loan",
    "OnLeftOut",
    "OnProgress",
    "OpenDocument",
    "Part",
    "Source",
    "Span",
    "Swept",
    "Upload",
    "Uploads",
    "View",
    "first_items",
    "view_of",
    "within",
]
