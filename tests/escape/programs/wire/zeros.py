# language: python
# expect: protocol
# use: wire
# why: A header of no length.
say(bytes(64))
time.sleep(30)
