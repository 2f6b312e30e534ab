# language: python
# expect: error cpu
# use: wire
# why: The wire is closed; the rest is not waited for.
os.close(3)
while True:
    pass
