# expect: FINAL: 4417093
import re
FINAL(re.search(r"is: (\d{7})\.", context).group(1))
