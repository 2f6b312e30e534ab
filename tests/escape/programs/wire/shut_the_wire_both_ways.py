# language: python
# expect: error
# use: wire
# why: Who hangs up has ended.
# containers: expect timeout error ; hasty true ; why end: Docker tells the end of a stream with the container's, so the deadline ends it
import ctypes
if ctypes.CDLL(None).shutdown(3, 2):  # a pair of pipes can only be closed
    os.close({{wire_read}})
    os.close(3)
time.sleep(5)
