# language: python
# expect: ok
# use: wire
# says: in step
# why: The cell ends while a reply larger than the socket holds is on its way; the next cell must find the stream in step.
say(frame({"op": "query", "id": 4000, "model": None, "lengths": [1] * 16}, b"x" * 16))
time.sleep(0.5)
#%%
print("in step")
