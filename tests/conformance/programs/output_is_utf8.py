# expect: hé 4 ok
import sys

sys.stdout.reconfigure(encoding="utf-8") if hasattr(sys.stdout, "reconfigure") else None
if hasattr(sys.stdout, "buffer"):
    written = sys.stdout.buffer.write("hé ".encode())
else:
    written = sys.stdout.write("hé ") + 1
print(written, "ok")
