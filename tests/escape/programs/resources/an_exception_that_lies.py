# language: python
# expect: error
# why: Its own methods are called while it is described.
class Evil(Exception):
    def __str__(self):
        raise SystemExit("str")
    def __repr__(self):
        raise KeyboardInterrupt
    @property
    def __traceback__(self):
        raise MemoryError
    @property
    def __cause__(self):
        raise MemoryError
raise Evil
