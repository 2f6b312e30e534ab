# language: python
# expect: ok
# says: looked at
# why: No set-id file, nothing that may be written, no shell, no package, no path of the host in a name.
import os, stat
seen = 0
for folder, folders, files in os.walk("/usr"):
    for name in folders + files:
        about = os.lstat(os.path.join(folder, name))
        seen += 1
        if stat.S_ISLNK(about.st_mode):
            continue
        if about.st_mode & 0o7022 or name in ("sh", "bash", "site-packages", "pip", "perl"):
            escaped(folder, name, oct(about.st_mode))
print("looked at", seen > 1000)
