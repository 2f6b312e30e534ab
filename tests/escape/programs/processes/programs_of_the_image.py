# language: python
# expect: ok
# use: tries
# says: EPERM
# why: A fresh program is a fresh address space, without the agent.
import os, subprocess
tries(
    lambda: os.execv("/usr/bin/python3", ["python3", "-c", "print(1)"]),
    lambda: os.execve("/bin/sh", ["sh"], {}),
    lambda: os.execve(os.open("/usr/bin/python3", os.O_RDONLY), ["python3"], {}),
    lambda: os.posix_spawn("/usr/bin/python3", ["python3"], {}),
    lambda: subprocess.run(["/usr/bin/python3", "-c", "1"]),
    lambda: subprocess.run("id", shell=True),
)
print(os.system("id"))
