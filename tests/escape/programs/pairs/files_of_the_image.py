# why: The image is one for all boxes: neither its bytes, names, times, modes nor attributes can carry a word.
import ctypes, os

libc = ctypes.CDLL(None, use_errno=True)
paths = ["/usr/lib/belljar/guest/agent/loop.py", "/usr/lib/belljar/guest", "/usr/bin/python3", "/usr/lib", "/usr"]


def look():
    return [
        tuple(os.stat(path)) + (os.stat(path).st_atime_ns, os.stat(path).st_ctime_ns, os.stat(path).st_blocks)
        for path in paths
    ] + [sorted(os.listdir(paths[1]))]


#%% write
meet()
for path in paths:
    for attempt in (
        lambda: os.utime(path, (1, 1)),
        lambda: os.chmod(path, 0o777),
        lambda: os.rename(path, path + "2"),
        lambda: os.unlink(path),
        lambda: os.rmdir(path),
        lambda: os.mkdir(path + "/new"),
        lambda: os.link(path, path + "3"),
        lambda: os.symlink(path, path + "4"),
        lambda: os.setxattr(path, "user.word", b"x"),
        lambda: os.truncate(path, 0),
        lambda: open(path, "r+b"),
        lambda: open(path + "/new", "w"),
        lambda: os.open(path, os.O_NOATIME),
    ):
        try:
            attempt()
            escaped(path)
        except OSError:
            pass
    try:
        with open(path, "rb") as file:
            file.read()
    except OSError:
        os.listdir(path)
meet()
#%% look
before = look()
meet()
meet()
if look() != before:
    escaped(before, look())
