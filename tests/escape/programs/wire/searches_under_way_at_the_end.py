# language: python
# expect: ok protocol
# use: wire
# why: The end comes before the answers do.
say(*[frame({"op": "search", "id": number, "doc": 0, "mode": "count", "start": 0, "stop": 29000, "limit": 1, "line": 0}, b"[a-z]+x") for number in range(1, 6)])
say(frame(DONE))
time.sleep(30)
