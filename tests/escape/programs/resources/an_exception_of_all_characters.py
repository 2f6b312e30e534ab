# language: python
# expect: error
# why: Every character that JSON writes in a way of its own must come through the wire's canonical form.
raise ValueError("".join(map(chr, [*range(0x20), 0x22, 0x5C, 0x2F, *range(0x7F, 0xA0), 0x2028, 0x2029, 0xFEFF, 0xFFFE, 0x10FFFF, 0xD800])))
