# expect: [{'name': 'ann', 'score': '3'}, {'name': 'bob', 'score': '5'}]
table = """
| name | score |
|------|-------|
| ann  | 3     |
| bob  | 5     |
"""
rows = [[c.strip() for c in r.strip("|").split("|")] for r in table.strip().splitlines()]
header, _, *body = rows
print([dict(zip(header, r)) for r in body])
