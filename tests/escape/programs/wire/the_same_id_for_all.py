# language: python
# expect: ok protocol error timeout
# use: wire
# why: Ids are the guest's own affair.
for _ in range(50):
    say(frame({"op": "read", "id": 1, "doc": 0, "start": 0, "stop": 10, "line": 0}))
print("fifty")
