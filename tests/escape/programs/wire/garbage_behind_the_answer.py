# language: python
# expect: ok
# use: wire
# why: What comes after the answer is not read.
# says: first
say(frame({"op": "final", "cell": 1, "form": "text"}, b"first"), os.urandom(4096))
time.sleep(30)
