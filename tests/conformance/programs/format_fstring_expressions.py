# expect: 2 1 [2, 4] yes names={'a': [1, 2]}
names = {"a": [1, 2]}
print(f"{names['a'][1]} {len(names)} {[x * 2 for x in names['a']]} {'yes' if names else 'no'} {names=}")
