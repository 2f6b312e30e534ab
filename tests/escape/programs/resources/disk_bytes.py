# language: python
# expect: disk
# limit: limits.scratch
# why: Fills the scratch folder.
# gvisor: expect error ; says No space left on device ; why disk: the host cannot see its files, and asks nothing inside
number = 0
while True:
    number += 1
    with open(f"/tmp/{number}", "wb", buffering=0) as file:
        if file.write(bytes(1 << 19)) < 1 << 19:
            file.write(b"x")
