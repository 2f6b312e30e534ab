# language: python
# expect: error
# use: wire
# says: wire
# why: The agent goes on to talk with itself: the number is now that of a pair in the box.
# containers: expect timeout error ; hasty true ; why end: Docker tells the end of a stream with the container's, so the deadline ends it
import socket
os.close(3)
pair = socket.socketpair()
print([one.fileno() for one in pair])
time.sleep(5)
