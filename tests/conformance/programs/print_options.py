# expect: 'hidden\n'
import io
print("a", "b", sep="-", end="!\n")
print()
print(*[1, 2, 3], sep=", ")
buf = io.StringIO()
print("hidden", file=buf)
print(repr(buf.getvalue()), flush=True)
