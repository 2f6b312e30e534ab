# language: restricted
# expect: ok
# says: kept
# why: A pattern of an exception of the program's own reads no more than the program may.
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
try:
    match E(1):
        case E(o): escaped(o)
except TypeError:
    print("kept")
