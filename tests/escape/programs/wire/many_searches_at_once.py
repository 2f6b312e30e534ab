# language: python
# expect: protocol
# use: wire
# why: More under way than the policy allows.
say(*[frame({"op": "search", "id": number, "doc": 0, "mode": "count", "start": 0, "stop": 29000, "limit": 1, "line": 0}, b"[a-z]+x") for number in range(1, 200)])
time.sleep(30)
