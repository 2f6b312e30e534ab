# advice: json offers:
import json
json.JSONEncoder
