# language: python
# expect: protocol
# use: wire
# why: Bytes behind the value.
say(frame(b'{"op":"budget","id":1}\0'))
time.sleep(30)
