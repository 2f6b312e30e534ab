# language: python
# expect: ok
# use: wire
# says: read.out_of_range
# refused: read.out_of_range
# why: The agent checks ranges for comfort; the host must check them again.
from guest.agent import wire as guest_wire
import gc
channel = next(value for value in gc.get_objects() if isinstance(value, guest_wire.Channel))
for start, stop in ((0, len(context) + 1), (len(context) + 1, len(context) + 2), (5, 4), (0, 2**53 - 1)):
    print(channel.request("read", {"doc": 0, "start": start, "stop": stop, "line": 0}))
