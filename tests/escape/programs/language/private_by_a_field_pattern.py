# language: restricted
# expect: error
# says: register() takes classes of your own
# why: The same with a hidden name of a library object.
from dataclasses import dataclass
import abc, threading
@dataclass
class T(abc.ABC):
    _target: object = None
try:
    T.register(threading.Thread)
finally:
    match threading.Thread(target=print):
        case T(target): escaped(target)
