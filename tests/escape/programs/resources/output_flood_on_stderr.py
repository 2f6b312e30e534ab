# language: python
# expect: output
# limit: limits.output_flood
# why: The other stream.
import sys
while True:
    sys.stderr.write("x" * 10_000)
