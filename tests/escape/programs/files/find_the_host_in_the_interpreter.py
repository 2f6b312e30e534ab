# language: python
# expect: ok
# says: /usr/bin/python3
# why: The interpreter must not remember where it was copied from in what it was started with.
import sys
print(sys.executable, sys.argv, sys.orig_argv, sys.path, sys.flags)
if any("tmp" in str(word) or "home" in str(word) for word in [*sys.argv, *sys.orig_argv, *sys.path]):
    escaped(sys.orig_argv, sys.path)
