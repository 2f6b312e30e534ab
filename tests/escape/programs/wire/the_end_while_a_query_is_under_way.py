# language: python
# expect: ok protocol
# use: wire
# why: The query is settled, and its reply finds nobody.
say(frame({"op": "query", "id": 1, "model": None, "lengths": [1]}, b"x"), frame(DONE))
time.sleep(30)
