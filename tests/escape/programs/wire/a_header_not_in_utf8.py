# language: python
# expect: protocol
# use: wire
# why: Bytes that are no text.
say(frame(b'{"op":"query","id":1,"model":"\xff\xfe","lengths":[1]}', b"x"))
time.sleep(30)
