# expect: ['2024-02-29', '2023-12-31', '2024-06-16', None]
from datetime import datetime
def parse(s):
    for fmt in ("%Y-%m-%d", "%d/%m/%Y", "%b %d, %Y"):
        try:
            return datetime.strptime(s, fmt)
        except ValueError:
            continue
    return None
print([parse(s) and parse(s).isoformat()[:10] for s in ("2024-02-29", "31/12/2023", "Jun 16, 2024", "??")])
