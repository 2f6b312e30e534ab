# language: python
# expect: ok protocol
# use: wire
# why: Bytes are replaced, not refused: a program may print what it likes.
say(frame({"op": "output", "cell": 1, "stream": "stdout"}, b"\xff\xfe"), frame(DONE))
time.sleep(30)
