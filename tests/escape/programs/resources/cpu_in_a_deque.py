# language: both
# expect: cpu
# limit: cpu_ms
# why: Consuming for ever without memory.
import collections, itertools
collections.deque(itertools.count(), maxlen=0)
