# language: python
# expect: ok
# says: [0, 1, 2, 3]
# why: A descriptor that leaked in from the host is a door; a folder's is the worst.
# containers: says [0, 1, 2, 3, 4] ; why wire: two pipes, one for each way
import select
found = []
for start in range(0, 70000, 50):
    numbers = range(start, start + 50)
    poll = select.poll()
    for number in numbers:
        poll.register(number, 0)
    closed = {number for number, event in poll.poll(0) if event & select.POLLNVAL}
    found += [number for number in numbers if number not in closed]
print(found)
