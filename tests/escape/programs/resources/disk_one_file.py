# language: python
# expect: disk error
# why: One file larger than the folder.
with open("/tmp/x", "wb") as file:
    while True:
        file.write(bytes(1 << 20))
