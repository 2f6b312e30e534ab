# expect: 70.20 73.0 17.180
import statistics
lengths = [len(l) for l in context.splitlines() if l]
print(f"{statistics.mean(lengths):.2f} {statistics.median(lengths)} {statistics.pstdev(lengths):.3f}")
