"""Finds which text of the contexts was in a prompt: pure computing, over bytes and ranges of bytes.

The search process runs it (`search.process`), and needs no more than these modules.
"""
