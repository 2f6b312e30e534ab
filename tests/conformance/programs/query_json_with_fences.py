# expect: {'error': 'Expecting value', 'pos': 0}
import json, re

def parse_json(text):
    text = re.sub(r"^```(?:json)?\s*|\s*```$", "", text.strip())
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        return {"error": e.msg, "pos": e.pos}

print(parse_json('```json\n{"a": [1, 2]}\n```'))
print(parse_json("not json"))
