# language: python
# expect: ok
# says: second
# use: wire
# why: A thread may print between two cells; what it prints is never the next one's.
print("first")
#%%
say(frame({"op": "output", "cell": 1, "stream": "stdout"}, b"ESC" + b"APED late"))
print("second")
