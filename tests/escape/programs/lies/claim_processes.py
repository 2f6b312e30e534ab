# language: both
# expect: error
# why: A RuntimeError with the right words.
raise RuntimeError("can't start new thread")
