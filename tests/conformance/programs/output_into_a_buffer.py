# expect: 'hidden\nmore' 6 captured
import contextlib
import io
import sys

buffer = io.StringIO()
with contextlib.redirect_stdout(buffer):
    print("hidden")
    sys.stdout.write("more")
print("seen")
print("to a buffer", file=buffer, end="")
with contextlib.redirect_stderr(io.StringIO()) as errors:
    print("captured", file=sys.stderr, end="")
print(repr(buffer.getvalue()[:11]), sys.stdout.write("1 + 1\n"), errors.getvalue())
