# expect: {'key': 'quiet-otter', 'value': '4417093'} True
import re
pattern = re.compile(r"special magic numbers for (?P<key>[\w-]+) is: (?P<value>\d{7})")
for match in pattern.finditer(context):
    print(match.groupdict(), match.start() < match.end())
