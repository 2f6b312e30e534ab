# language: python
# expect: disk
# limit: scratch_bytes
# why: Empty files cost the kernel memory that no byte count sees.
number = 0
while True:
    number += 1
    open(f"/tmp/{number}", "w").close()
