# language: python
# expect: protocol
# use: wire
# why: Three bytes before the header.
say(frame(b'\xef\xbb\xbf{"op":"budget","id":1}'))
time.sleep(30)
