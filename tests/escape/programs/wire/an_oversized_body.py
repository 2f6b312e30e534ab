# language: python
# expect: protocol
# use: wire
# why: Refused before a byte of it is kept.
say(struct.pack("!II", 20, (1 << 20) + 1) + b"x" * 20)
time.sleep(30)
