# language: python
# expect: disk
# limit: limits.scratch
# why: Empty files cost the kernel memory that no byte count sees.
# gvisor: expect cpu memory ; why files: its tmpfs counts none; time and memory are charged to the box
number = 0
while True:
    number += 1
    open(f"/tmp/{number}", "w").close()
