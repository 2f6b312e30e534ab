"""Which text of the contexts stood in a prompt: pure computing, over bytes and ranges of bytes.

The process that searches runs it (`search.process`), and has no need of more than these modules.
"""
