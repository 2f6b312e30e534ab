# language: python
# expect: protocol
# use: wire
# why: A parser that recurses, in its place.
say(frame(b'{"op":"query","id":1,"model":null,"lengths":' + b"[" * 60000))
time.sleep(30)
