# language: python
# expect: error
# use: wire
# says: QuotaExceeded
# refused: read.total
# why: Small reads cost a record in the log each.
from guest import wire as guest_wire
from guest.names import raise_failure
import gc
channel = next(value for value in gc.get_objects() if isinstance(value, guest_wire.Channel))
while True:
    header, _ = channel.request("read", {"doc": 0, "start": 0, "stop": 1})
    raise_failure(header)
