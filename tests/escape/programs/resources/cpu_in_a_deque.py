# language: both
# expect: cpu
# limit: limits.cpu
# why: Consuming for ever without memory.
import collections, itertools
collections.deque(itertools.count(), maxlen=0)
