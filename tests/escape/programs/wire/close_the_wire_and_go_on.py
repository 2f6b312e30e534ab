# language: python
# expect: error
# use: wire
# why: The wire is closed; the rest is not waited for.
# says: wire
os.close(3)
while True:
    pass
