# language: python
# expect: protocol
# use: wire
# why: The query is decided upon in its own time; the answer must not overtake the verdict.
say(frame({"op": "query", "id": 1, "model": None, "lengths": [1]}, b"xx"), frame({"op": "final", "form": "text"}, b"second"))
time.sleep(30)
