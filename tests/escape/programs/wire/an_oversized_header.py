# language: python
# expect: protocol
# use: wire
# why: The length alone is enough to refuse it.
say(struct.pack("!II", 1 << 30, 0))
time.sleep(30)
