# language: python
# expect: protocol
# use: wire
# why: Two readers would see two values.
say(frame(b'{"op":"budget","id":1,"id":2}'))
time.sleep(30)
