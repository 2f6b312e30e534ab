# expect: [('user', 160), ('instance', 160), ('date', 160)]
import heapq
import re
words = {}
for w in re.findall(r"[a-z]{4,}", context.lower()):
    words[w] = words.get(w, 0) + 1
print(heapq.nlargest(3, words.items(), key=lambda kv: (kv[1], kv[0])))
