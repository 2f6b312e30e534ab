# expect: True 5 x True
import random
random.seed(7)
a = [random.randint(1, 100) for _ in range(5)]
random.seed(7)
b = [random.randint(1, 100) for _ in range(5)]
rng = random.Random(3)
sample = rng.sample(range(100), 5)
random.shuffle(b)
print(sorted(a) == sorted(b), len(set(sample)), random.choice("x"), 0 <= random.random() < 1)
