# language: python
# expect: protocol ok
# use: wire
# why: Once the answer is taken, nothing before or behind it is looked at; the query is never sent.
say(frame({"op": "query", "id": 1, "model": None, "lengths": [1]}, b"xx"), frame({"op": "final", "cell": 1, "form": "text"}, b"second"))
time.sleep(30)
