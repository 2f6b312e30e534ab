# expect: ok
from contextlib import contextmanager, suppress
@contextmanager
def section(name):
    print("begin", name)
    try:
        yield name.upper()
    finally:
        print("end", name)
with section("scan") as s, suppress(KeyError):
    print(s)
    {}["x"]
print("ok")
