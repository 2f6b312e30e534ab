# expect: ['Glasgow'] 0.75
import difflib
names = ["Glasgow", "Edinburgh", "Aberdeen"]
print(difflib.get_close_matches("Glasgwo", names, n=1), round(difflib.SequenceMatcher(None, "abcd", "abxd").ratio(), 2))
