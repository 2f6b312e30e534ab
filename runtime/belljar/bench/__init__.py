"""The tasks on which recursive language models are measured, generated on the spot: no download, no key, no network.

Each module makes the cases of one task from a size and a seed: a context, a question, and what only the generator knows
(`cases.py` says what a case is). A case also brings the turns of a scripted root model and an *oracle*, a sub-model
that reads its prompt by the templates from which the context was generated. With those two, every case is solved, which
shows that the machinery works and nothing about any model; with a real model the same cases measure that model.
"""

__all__: list[str] = []
