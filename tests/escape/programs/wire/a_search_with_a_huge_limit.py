# language: python
# expect: protocol
# use: wire
# why: More matches than a question may ask for.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "find", "start": 0, "stop": 29000, "limit": 100001, "line": 0}, b"a"))
time.sleep(30)
