# language: python
# expect: protocol
# use: wire
# why: Orders are the host's to give.
say(frame({"op": "execute", "cell": 2}, b"print(1)"))
time.sleep(30)
