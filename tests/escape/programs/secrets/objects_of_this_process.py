# language: python
# expect: ok
# says: objects
# why: Strings that were left in the interpreter before it became a box.
import gc, re, sys
word = "BJ" + "CANARY"
found, seen, queue = set(), set(), list(gc.get_objects()) + list(sys.modules.values())
for value in queue:
    for inner in gc.get_referents(value):
        if isinstance(inner, (str, bytes)) and id(inner) not in seen:
            seen.add(id(inner))
            text = inner if isinstance(inner, str) else inner.decode("latin-1")
            found.update(re.findall(word + "[0-9a-f]+", text))
print("objects", len(seen) > 1000)
if found:
    escaped(found)
