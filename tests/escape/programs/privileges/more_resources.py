# language: python
# expect: ok
# use: tries
# says: EPERM
# why: A limit that may be raised from inside is none; nor may one be lowered, which the C library's own threads would meet.
import resource
for name in dir(resource):
    if name.startswith("RLIMIT_"):
        number = getattr(resource, name)
        soft, hard = resource.getrlimit(number)
        for wanted in ((-1, -1), (soft, hard), (0, hard)):
            try:
                resource.setrlimit(number, wanted)
                escaped(name, wanted)
            except (OSError, ValueError):
                pass
print(resource.getrlimit(resource.RLIMIT_CORE))
tries(lambda: __import__("os").nice(-5))
