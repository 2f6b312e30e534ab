# language: restricted
# expect: error
# says: a field cannot be called 'gi_frame'
# why: A positional pattern reads the names of a dataclass's fields, of anything that was registered with it.
from dataclasses import dataclass
import abc
@dataclass
class G(abc.ABC):
    gi_frame: object
def generator(): yield 1
running = generator()
G.register(type(running))
match running:
    case G(frame): escaped(frame)
