# language: python
# expect: protocol
# use: wire
# why: A batch is bounded before the policy looks at it.
say(frame({"op": "query", "id": 1, "model": None, "lengths": [0] * 9000}))
time.sleep(30)
