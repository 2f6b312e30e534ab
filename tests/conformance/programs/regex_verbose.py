# expect: 2024 06 (0, 7) (?P<y True
import re
rx = re.compile(r"""
    (?P<y>\d{4}) - (?P<m>\d\d)   # year and month
""", re.VERBOSE)
m = rx.match("2024-06")
print(m["y"], m.group("m"), m.span(), rx.pattern.strip()[:5], rx.flags & re.X != 0)
