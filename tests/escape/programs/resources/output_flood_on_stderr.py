# language: python
# expect: output
# limit: output.flood
# why: The other stream.
import sys
while True:
    sys.stderr.write("x" * 10_000)
