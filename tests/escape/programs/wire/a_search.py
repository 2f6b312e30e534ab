# language: python
# expect: ok protocol
# use: wire
# why: Not in this version: a refusal, not a violation.
say(frame({"op": "search", "id": 1, "doc": 0, "start": 0, "limit": 10}, b"(a+)+$"), frame(DONE))
time.sleep(30)
