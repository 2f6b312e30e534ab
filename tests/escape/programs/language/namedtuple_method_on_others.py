# language: restricted
# expect: error
# says: works only on its own objects
# why: The methods of a named tuple call hidden methods of whatever object they are given.
from collections import namedtuple
N = namedtuple("N", "a")
class Like:
    def _make(self, values): escaped(values)
N._replace(Like())
