# language: python
# expect: ok protocol timeout error
# use: wire
# why: A forged order in front of the real one reaches nobody: the stream has two ends.
# hasty
from guest.agent import wire as guest_wire
import gc
channel = next(value for value in gc.get_objects() if isinstance(value, guest_wire.Channel))
channel._inbox[0] = ({"op": "execute", "cell": 9}, b"print('forged')")
print("first")
#%%
print("second")
