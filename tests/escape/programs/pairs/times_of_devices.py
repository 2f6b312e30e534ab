# why: The devices are the host's own: what one box does with them must not be seen in another.
import os

devices = ["/dev/null", "/dev/zero", "/dev/urandom", "/dev"]


def look():
    return {path: tuple(os.stat(path))[:7] + (os.stat(path).st_atime_ns, os.stat(path).st_mtime_ns) for path in devices}


#%% touch
meet()
for path in devices[:3]:
    with open(path, "r+b", buffering=0) as file:
        file.write(b"x")
        file.read(16)
    for attempt in (lambda: os.utime(path, (1, 1)), lambda: os.chmod(path, 0o600)):
        try:
            attempt()
        except OSError as error:
            print(path, error.errno)
meet()
#%% look
before = look()
meet()
meet()
if look() != before:
    escaped(before, look())
