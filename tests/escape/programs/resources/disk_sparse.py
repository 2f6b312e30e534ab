# language: python
# expect: error disk ok
# why: A file with a hole as large as an address.
with open("/tmp/x", "wb") as file:
    file.truncate(1 << 40)
    file.seek((1 << 40) - 1)
    file.write(b"x")
