# language: python
# expect: protocol
# use: wire
# why: Half a character, escaped.
say(frame(b'{"op":"query","id":1,"model":"\\ud800","lengths":[1]}', b"x"))
time.sleep(30)
