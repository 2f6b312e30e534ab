# language: python
# expect: error
# why: The name of an exception is text as well.
raise type("".join(map(chr, [*range(1, 0x20), 0x22, 0x5C, 0x7F, 0x2028, 0x10FFFF])), (Exception,), {})("x")
