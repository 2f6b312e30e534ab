# language: python
# expect: protocol
# use: wire
# why: What comes twice, or late, must not end the cell that runs now.
print("first")
#%%
say(frame(DONE))
time.sleep(30)
