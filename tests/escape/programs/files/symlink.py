# language: python
# expect: ok
# use: tries
# says: EPERM
# why: A link for the host to follow, should it ever look into the scratch folder.
import os
tries(lambda: os.symlink("{{canary}}", "/tmp/link"), lambda: os.link("/usr/bin/python3", "/tmp/link"))
