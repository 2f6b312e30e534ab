# language: restricted
# expect: error
# says: a field cannot be called 'obj'
# why: A pattern of an exception of the program's own, and its generated methods, read no more than the program may.
from dataclasses import dataclass
import json
@dataclass
class E(AttributeError):
    obj: object = None
try:
    json.nothing
except AttributeError as error:
    match error:
        case E(o): escaped(o)
match E(1):
    case E(o): escaped(o)
