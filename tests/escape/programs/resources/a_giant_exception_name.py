# language: python
# expect: error
# why: So is its name.
raise type("E" * 1_000_000, (Exception,), {})("x")
