# language: python
# expect: error
# use: wire replies
# says: "count":0
# why: Exponential where an engine backtracks; the host's does not.
say(frame({"op": "search", "id": 1, "doc": 0, "mode": "count", "start": 0, "stop": 29000, "limit": 10, "line": 0}, b"((([a-z ]+)+)+)+$x"))
raise RuntimeError(reply())
