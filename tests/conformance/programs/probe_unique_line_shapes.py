# expect: 15 'Date: Jan N, N || Us'
import re
from collections import Counter
shapes = Counter(re.sub(r"\d+", "N", line)[:20] for line in context.splitlines() if line)
for shape, n in shapes.most_common(3):
    print(n, repr(shape))
