# language: python
# expect: protocol
# use: wire
# why: The same word, spelled otherwise.
say(frame(b'{"op":"budg\\u0065t","id":1}'))
time.sleep(30)
