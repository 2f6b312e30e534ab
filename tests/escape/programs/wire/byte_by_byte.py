# language: python
# expect: ok
# use: wire
# why: Every byte in a write of its own is still one sentence.
# says: slowly
for byte in frame({"op": "final", "cell": 1, "form": "text"}, b"slowly"):
    os.write(3, bytes([byte]))
time.sleep(30)
