# language: python
# expect: protocol
# use: wire
# why: Cells count from 1.
say(frame({"op": "output", "cell": 0, "stream": "stdout"}, b"x"))
time.sleep(30)
