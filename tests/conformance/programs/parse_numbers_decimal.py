# expect: 0.605 0.61
from decimal import Decimal, ROUND_HALF_UP
total = sum((Decimal(x) for x in ("0.10", "0.20", "0.305")), Decimal(0))
print(total, total.quantize(Decimal("0.01"), rounding=ROUND_HALF_UP))
