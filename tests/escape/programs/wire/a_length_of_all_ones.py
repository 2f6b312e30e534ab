# language: python
# expect: protocol
# use: wire
# why: The largest number that fits.
say(b"\xff" * 8)
time.sleep(30)
