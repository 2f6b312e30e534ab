# language: python
# expect: ok
# use: wire
# says: read.no_document
# refused: read.no_document
# why: A document is an index into the run's own table; there is no other.
from guest.agent import wire as guest_wire
import gc
channel = next(value for value in gc.get_objects() if isinstance(value, guest_wire.Channel))
for doc in (1, 2, 7, 1023):
    print(channel.request("read", {"doc": doc, "start": 0, "stop": 10, "line": 0}))
