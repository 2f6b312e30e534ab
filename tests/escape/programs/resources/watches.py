# language: python
# expect: ok error memory
# why: Each epoll watch is kernel memory of a count shared by uid.
import os, select
readers = [os.pipe()[0] for _ in range(20)]
polls = []
try:
    while True:
        poll = select.epoll()
        for reader in readers:
            poll.register(reader)
        polls.append(poll)
except OSError as error:
    print(error)
