# expect: a Counter({'a': 3})
from collections import Counter, defaultdict
class Tally(Counter):
    def winner(self):
        return self.most_common(1)[0][0]
print(Tally("abracadabra").winner(), Tally(a=1) + Tally(a=2))
