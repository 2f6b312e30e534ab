# expect: ['Wed 28', 'Thu 29', 'Fri 01'] 308
from datetime import date, timedelta
d = date(2024, 2, 28)
print([(d + timedelta(days=i)).strftime("%a %d") for i in range(3)], (date(2025, 1, 1) - d).days)
