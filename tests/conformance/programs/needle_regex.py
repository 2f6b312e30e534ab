# expect: key='quiet-otter' value='4417093'
import re
m = re.search(r"magic numbers? for ([\w-]+) is: (\d+)", context)
if m:
    key, value = m.groups()
    print(f"{key=} {value=}")
