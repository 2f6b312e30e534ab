# language: python
# expect: protocol
# use: wire
# why: That one is over, and had no answer.
print("first")
#%%
say(frame({"op": "final", "cell": 1, "form": "text"}, b"late"))
time.sleep(30)
