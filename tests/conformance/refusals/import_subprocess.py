# advice: do it in Python
import subprocess
subprocess.run(["ls"])
