"""Searches stored documents on the host, in processes of their own (see `searcher` and `process`)."""

from belljar.search.searcher import Findings, Question, Searcher, Tracked

__all__ = ["Findings", "Question", "Searcher", "Tracked"]
