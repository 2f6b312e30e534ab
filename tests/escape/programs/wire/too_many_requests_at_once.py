# language: python
# expect: protocol
# use: wire
# why: More under way than the policy allows.
say(*[frame({"op": "query", "id": number, "model": None, "lengths": [1]}, b"x") for number in range(1, 200)])
time.sleep(30)
