# language: python
# expect: protocol
# use: wire
# why: A parser that recurses.
say(frame(b"[" * 60000))
time.sleep(30)
